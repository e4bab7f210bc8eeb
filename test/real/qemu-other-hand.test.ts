import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { folderOf } from '@ferry/host-agent/folders'
import { qemuDriver } from '@ferry/host-agent/drivers/qemu/driver'
import { probeQemu } from '@ferry/host-agent/drivers/qemu/probe'
import type { Driver, PerformOrder } from '@ferry/host-agent/driver'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { openWire, performOrder } from '../contract/wire.ts'
import { testDial } from '../dial.ts'
import { failureOf } from '../failure.ts'
import { bootSector, smallGuest } from '../guest/boot-sector.ts'
import { until } from '../until.ts'
import { migrationStatusIn, qemusUnder, withMonitor } from './outside.ts'

/** Somebody pauses a guest of QEMU through its operator's monitor: they want it so, whatever Ferry is doing with it. */
const test = suite('a guest of QEMU that somebody else pauses')

const pausedByHand = {
  type: 'HypervisorFailed',
  message: 'somebody else has paused it',
  otherHand: true,
} as const

let root = ''
let driver: Driver
let number = 0

test.before(async () => {
  root = await mkdtemp(join(tmpdir(), 'ferry-'))
  await mkdir(join(root, 'vms'))
  await writeFile(join(root, 'disk.img'), bootSector(smallGuest))
  const facts = await probeQemu({
    binary: 'qemu-system-x86_64',
    accelerators: ['tcg'],
    memoryBytes: 2 * 1024 ** 3,
    clock: systemClock,
  })
  driver = qemuDriver({
    binary: 'qemu-system-x86_64',
    guests: join(root, 'host'),
    definitions: join(root, 'vms'),
    facts,
    clock: systemClock,
  })
})
test.after(async () => {
  await driver.close()
  for (const { pid } of await qemusUnder(root)) process.kill(pid, 'SIGKILL')
  await rm(root, { recursive: true })
})

/** @returns a guest that runs, and what an operator has it do. */
async function started() {
  number += 1
  const vm = `web${number}`
  const disks = [
    { path: join(root, 'disk.img'), format: 'raw', interface: 'floppy', readOnly: true },
  ]
  const definition = { memoryMiB: 32, accel: 'tcg', disks }
  await writeFile(join(root, 'vms', `${vm}.json`), JSON.stringify(definition))
  const answer = await driver.start(vm)
  assert.ok('needs' in answer, JSON.stringify(answer))
  const folder = folderOf(join(root, 'host'), vm)
  return {
    vm,
    folder,
    operator: (command: string, args?: object) =>
      withMonitor(folder, (qmp) => qmp.execute(command, args)),
  }
}

const stateOf = async (vm: string) =>
  (await driver.inspect()).find((guest) => guest.vm === vm)?.state

/** So slow that there is time for anything. @param more is told when the image has begun to leave. */
function copy(vm: string, more: Partial<PerformOrder> = {}) {
  const wire = openWire()
  wire.stream.resume()
  const told: number[] = []
  const failure = failureOf(
    driver.perform(vm, {
      ...performOrder(wire),
      dial: testDial({ bandwidthBytesPerSecond: 2 ** 20 }),
      paused: (at) => void told.push(at),
      ...more,
    }),
  )
  return {
    failure,
    told,
    begun: () => until('the image to leave', () => wire.passedBytes() > 0),
  }
}

test('while it is copied is not moved, is not said to be switching over, and stays paused', async () => {
  const { vm, operator } = await started()
  const { failure, told, begun } = copy(vm)
  await begun()
  await operator('stop')
  assert.equal(await failure, pausedByHand)
  assert.equal(told, [])
  for (const wasPaused of [true, true]) {
    const resumed = await driver.resume(vm)
    assert.is(resumed?.wasPaused, wasPaused)
    assert.is(resumed?.leftPaused, true)
    assert.is(await stateOf(vm), 'paused')
  }
  await operator('cont')
  const resumed = await driver.resume(vm)
  assert.is(resumed?.wasPaused, false)
  assert.is(resumed?.leftPaused, undefined)
  await driver.release(vm)
})

test('before it is copied is not moved', async () => {
  const { vm, operator } = await started()
  await operator('stop')
  assert.equal(await copy(vm).failure, pausedByHand)
  assert.is(await stateOf(vm), 'paused')
  await driver.release(vm)
})

test('at the last moment stays paused when the copy is given up', async () => {
  const { vm, folder, operator } = await started()
  await operator('stop')
  // What a mover has its QEMU do, and what it leaves when it dies.
  await operator('migrate-set-capabilities', {
    capabilities: [{ capability: 'pause-before-switchover', state: true }],
  })
  await operator('migrate', { uri: 'exec:cat >/dev/null' })
  const isAt = (status: string) => async () => (await migrationStatusIn(folder)) === status
  await until('QEMU to be about to switch over', isAt('pre-switchover'))
  const resumed = await driver.resume(vm)
  assert.is(resumed?.leftPaused, true)
  assert.ok(await isAt('cancelled')())
  assert.is(await stateOf(vm), 'paused')
  assert.is((await driver.resume(vm))?.leftPaused, true)
  await driver.release(vm)
})

test.run()

import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { HostRefusal } from '@ferry/schemas/refusal'
import { systemClock } from '@ferry/events/clock'
import { QemuNotStarted, findLost, launch } from '@ferry/host-agent/drivers/qemu/copy'
import { qemuDriver } from '@ferry/host-agent/drivers/qemu/driver'
import { probeQemu } from '@ferry/host-agent/drivers/qemu/probe'
import type { QemuFacts } from '@ferry/host-agent/drivers/qemu/probe'
import type { Driver } from '@ferry/host-agent/driver'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { bootSector, smallGuest } from '../guest/boot-sector.ts'
import { until } from '../until.ts'
import { qemusUnder } from './outside.ts'

/** What a host with QEMU will not begin, prepare or start: said before anything has moved, and as data. */
const test = suite('QEMU refuses')

let root = ''
let facts: QemuFacts
let driver: Driver
const open = (more: Partial<QemuFacts> = {}, name = 'host', binary = 'qemu-system-x86_64') =>
  qemuDriver({
    binary,
    guests: join(root, name),
    definitions: join(root, 'vms'),
    facts: { ...facts, ...more },
    clock: systemClock,
  })

test.before(async () => {
  root = await mkdtemp(join(tmpdir(), 'ferry-'))
  await mkdir(join(root, 'vms'))
  facts = await probeQemu({
    binary: 'qemu-system-x86_64',
    accelerators: ['tcg'],
    memoryBytes: 2 * 1024 ** 3,
    clock: systemClock,
  })
  driver = open()
  await writeFile(join(root, 'disk.img'), bootSector(smallGuest))
})
test.after(async () => {
  await driver.close()
  for (const { pid } of await qemusUnder(root)) process.kill(pid, 'SIGKILL')
  await rm(root, { recursive: true })
})

const disk = (path: string, format: 'raw' | 'qcow2' = 'raw') => ({
  path: join(root, path),
  format,
  interface: 'ide',
})

/** What is answered when a guest of that definition is to land here. */
async function landing(more: object, on = driver): Promise<HostRefusal | undefined> {
  const definition = { memoryMiB: 32, accelerator: 'tcg', machine: facts.machineOf('pc'), ...more }
  const answer = await on.prepare({
    vm: 'web1',
    migration: 'm1',
    attempt: 1,
    definition: JSON.stringify(definition),
    needs: {
      memoryBytes: 32 * 1024 ** 2,
      vcpus: 1,
      hypervisor: 'qemu',
      machine: facts.machineOf('pc'),
      cpu: 'qemu64',
      accelerator: 'tcg',
    },
  })
  return answer !== undefined && 'type' in answer ? answer : undefined
}

const nothingIsLeft = async () => {
  assert.equal(await driver.inspect(), [])
  assert.is((await qemusUnder(root)).length, 0)
}

test('a disk that is not here', async () => {
  const refusal = await landing({ disks: [disk('nowhere.img')] })
  assert.equal(refusal, { type: 'DiskMissing', path: join(root, 'nowhere.img') })
  await nothingIsLeft()
})

test('a disk of another format than was said', async () => {
  const path = join(root, 'disk.qcow2')
  await promisify(execFile)('qemu-img', ['create', '-f', 'qcow2', path, '1M'])
  assert.equal(await landing({ disks: [disk('disk.qcow2', 'raw')] }), {
    type: 'DiskMismatch',
    path,
    expected: 'raw',
    found: 'qcow2',
  })
  await nothingIsLeft()
})

test('a kernel that is not here', async () => {
  const kernel = join(root, 'vmlinuz')
  assert.equal(await landing({ kernel }), { type: 'FileMissing', path: kernel })
  await nothingIsLeft()
})

test('a machine type, a CPU or an accelerator that this QEMU does not have', async () => {
  assert.equal(await landing({ machine: 'pc-i440fx-99.9' }), {
    type: 'MachineUnsupported',
    machine: 'pc-i440fx-99.9',
  })
  assert.equal(await landing({ cpu: 'no-such-cpu,+avx' }), {
    type: 'CpuUnsupported',
    cpu: 'no-such-cpu',
  })
  assert.equal(await landing({ accelerator: 'kvm' }), {
    type: 'AcceleratorUnsupported',
    accelerator: 'kvm',
  })
  await nothingIsLeft()
})

test('a guest for which there is no memory', async () => {
  const refusal = await landing({ memoryMiB: 4000 })
  assert.is(refusal?.type, 'NotEnoughMemory')
  await nothingIsLeft()
})

test('what QEMU itself does not take, in its own words', async () => {
  const refusal = await landing({ extraArguments: ['-device', 'no-such-device'] })
  assert.ok(refusal?.type === 'HypervisorFailed' && refusal.message.includes('no-such-device'))
  await nothingIsLeft()
})

test('a QEMU that is not here, or that says nothing, and does not tell its command line', async () => {
  const silent = join(root, 'silent-qemu')
  await writeFile(silent, '#!/bin/sh\nexit 3\n', { mode: 0o755 })
  for (const [binary, message] of [
    [
      join(root, 'no-qemu'),
      `${root}/no-qemu is not here; on Debian: apt-get install qemu-system-x86`,
    ],
    [silent, `${silent} ended with code 3, and said nothing`],
  ] as const) {
    const broken = open({}, 'broken', binary)
    const refusal = await landing({ append: 'password=secret' }, broken)
    assert.equal(refusal, { type: 'HypervisorFailed', message })
    await broken.close()
  }
  await nothingIsLeft()
})

test('to wait for a QEMU that does not get ready', async () => {
  const slow = join(root, 'slow-qemu')
  await writeFile(slow, '#!/bin/sh\nexec sleep 60\n', { mode: 0o755 })
  const definition = { memoryMiB: 32, accelerator: 'tcg', machine: 'pc' } as const
  const why = await launch(slow, join(root, 'slow'), { vm: 'web1', definition }, 200).catch(
    (error: unknown) => (error instanceof QemuNotStarted ? error.said : error),
  )
  assert.is(why, `${slow} was not ready within 0.2 s`)
})

test('what has not got ready in time does not come up later, for the next attempt to stumble over', async () => {
  const slow = join(root, 'slow-child')
  const child = "sh -c 'while :; do sleep 0.1; done' child"
  await writeFile(slow, `#!/bin/sh\n${child} "$@" >/dev/null 2>&1 &\nwait\n`, { mode: 0o755 })
  const definition = { memoryMiB: 32, accelerator: 'tcg', machine: 'pc' } as const
  const folder = join(root, 'slow')
  const failed = await launch(slow, folder, { vm: 'web1', definition }, 500).catch(
    (error: unknown) => error,
  )
  assert.instance(failed, QemuNotStarted)
  try {
    await until('it to be gone', async () => (await findLost(folder)) === undefined, 3000)
  } finally {
    const lost = await findLost(folder)
    if (lost !== undefined) process.kill(lost, 'SIGKILL')
  }
})

test('to begin without the capability that the gate needs', async () => {
  await writeFile(
    join(root, 'vms', 'web1.json'),
    JSON.stringify({ memoryMiB: 32, accel: 'tcg', disks: [disk('disk.img')] }),
  )
  const old = open({ capabilities: ['events'] }, 'old')
  assert.ok('needs' in (await old.start('web1')))
  assert.equal(await old.begin('web1'), {
    refusal: {
      type: 'CapabilityMissing',
      capability: 'pause-before-switchover',
      hypervisor: `QEMU ${facts.hypervisor.hypervisorVersion}`,
    },
  })
  await old.release('web1')
  await old.close()
})

test('to start what runs already, though the folder that leads to it has been wiped', async () => {
  await writeFile(
    join(root, 'vms', 'web1.json'),
    JSON.stringify({ memoryMiB: 32, accel: 'tcg', disks: [disk('disk.img')] }),
  )
  assert.ok('needs' in (await driver.start('web1')))
  const [copy] = await qemusUnder(root)
  await rm(join(root, 'host'), { recursive: true })
  const next = open()
  assert.equal(await next.start('web1'), {
    refusal: { type: 'GuestAlreadyHere', vm: 'web1', state: 'unresponsive' },
  })
  await next.close()
  assert.ok(copy)
  process.kill(copy.pid, 'SIGKILL')
  await until('it to be gone', async () => (await qemusUnder(root)).length === 0)
})

test('to prepare a copy that would lock its disks before it is started', async () => {
  const old = open({ capabilities: ['events'] }, 'old')
  const refusal = await landing({ disks: [disk('disk.img')] }, old)
  assert.is(refusal?.type === 'CapabilityMissing' && refusal.capability, 'late-block-activate')
  await nothingIsLeft()
  await old.close()
})

test('to begin what cannot be migrated, and says why', async () => {
  await writeFile(
    join(root, 'vms', 'pinned.json'),
    // An emulated NVMe drive has no state that QEMU could send.
    JSON.stringify({
      memoryMiB: 32,
      accel: 'tcg',
      extraArguments: [
        ['-drive', `file=${join(root, 'disk.img')},format=raw,if=none,id=d0`],
        ['-device', 'nvme,drive=d0,serial=1'],
      ].flat(),
    }),
  )
  assert.ok('needs' in (await driver.start('pinned')))
  const answer = await driver.begin('pinned')
  assert.ok(
    'refusal' in answer && answer.refusal.type === 'HypervisorFailed',
    JSON.stringify(answer),
  )
  await driver.release('pinned')
})

test('a definition with a misspelt word, and names it', async () => {
  await writeFile(join(root, 'vms', 'odd.json'), JSON.stringify({ memoryMB: 32 }))
  const answer = await driver.start('odd')
  assert.ok('refusal' in answer && answer.refusal.type === 'DefinitionInvalid')
  assert.match(JSON.stringify(answer), 'memoryM')
})

test.run()

import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { systemClock } from '@ferry/events/clock'
import type { Driver } from '@ferry/host-agent/driver'
import { libvirtDriver } from '@ferry/host-agent/drivers/libvirt/driver'
import { probeLibvirt } from '@ferry/host-agent/drivers/libvirt/probe'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { openWire, performOrder, receiveOrder } from '../contract/wire.ts'
import { failureOf } from '../failure.ts'
import { bootSector, quietGuest } from '../guest/boot-sector.ts'
import { describeGuest, letGoAll } from '../lab/libvirt-guest.ts'
import { openLibvirtHosts } from '../lab/libvirt-hosts.ts'
import type { LibvirtHosts } from '../lab/libvirt-hosts.ts'
import { until } from '../until.ts'

/** What is particular about guests of libvirt: what is refused, what goes with them, and what a libvirtd that dies leaves. */
const test = suite('libvirt and its guests')

const names = ['source', 'target'] as const
let root = ''
let hosts: LibvirtHosts
let source: Driver
let target: Driver

async function open(name: string): Promise<Driver> {
  const socket = hosts.socket(name)
  return libvirtDriver({
    socket,
    guests: join(root, name, 'guests'),
    images: join(root, name, 'images'),
    definitions: join(root, 'vms'),
    facts: await probeLibvirt({ socket, memoryBytes: 2 * 1024 ** 3, clock: systemClock }),
    clock: systemClock,
  })
}

test.before(async () => {
  root = await mkdtemp(join(tmpdir(), 'ferry-'))
  await mkdir(join(root, 'vms'))
  hosts = await openLibvirtHosts(root, names)
  source = await open('source')
  target = await open('target')
})
test.after(async () => {
  await Promise.all([source.close(), target.close()])
  await hosts.close()
  for (const name of names) await letGoAll(join(root, name, 'guests'))
  await rm(root, { recursive: true })
})

/** A guest that is defined in libvirt, and runs on the source. */
async function defined(vm: string, change = (xml: string) => xml): Promise<void> {
  const file = join(root, `${vm}.xml`)
  await writeFile(
    file,
    change(await describeGuest(root, vm, { program: quietGuest, memoryMiB: 32 })),
  )
  await hosts.virsh('source', 'define', file)
  const answer = await source.start(vm)
  assert.ok('needs' in answer, JSON.stringify(answer))
}

async function prepared(vm: string): Promise<string> {
  const begun = await source.begin(vm)
  assert.ok('definition' in begun, JSON.stringify(begun))
  const answer = await target.prepare({ vm, ...begun, migration: 'm1', attempt: 1 })
  assert.ok(answer !== undefined && 'cookie' in answer, JSON.stringify(answer))
  return answer.cookie
}

async function loaded(vm: string): Promise<void> {
  const cookie = await prepared(vm)
  const wire = openWire()
  await Promise.all([
    source.perform(vm, { ...performOrder(wire), cookie }).then(wire.end),
    target.receive(vm, receiveOrder(wire)),
  ])
}

const stateOn = async (driver: Driver, vm: string) =>
  (await driver.inspect()).find((guest) => guest.vm === vm)?.state

const foreseen = async (vm: string) => (await source.foresee?.([vm]))?.get(vm)

test('a guest that libvirt would start by itself may not leave', async () => {
  await defined('auto')
  await hosts.virsh('source', 'autostart', 'auto')
  assert.equal(await source.begin('auto'), { refusal: { type: 'StartsByItself', vm: 'auto' } })
  assert.equal(await foreseen('auto'), { type: 'StartsByItself', vm: 'auto' })
  await hosts.virsh('source', 'autostart', '--disable', 'auto')
  assert.ok('definition' in (await source.begin('auto')))
  assert.is(await foreseen('auto'), undefined)
  await source.release('auto')
})

test('a guest goes directly only to a host that allows that, and of a release that knows it', async () => {
  await defined('direct')
  const leave = { directConnections: 1 }
  assert.equal(await source.begin('direct', { ...leave, definitionVersion: 2 }), {
    refusal: { type: 'DefinitionVersionUnsupported', offered: 3, supported: 2 },
  })
  const definitionVersion = 3
  const begun = await source.begin('direct', { ...leave, definitionVersion })
  assert.ok('definition' in begun, JSON.stringify(begun))
  const landing = { vm: 'direct', ...begun, definitionVersion, migration: 'm1', attempt: 1 }
  assert.equal(await target.prepare(landing), {
    type: 'CapabilityMissing',
    capability: 'receiving an image directly (libvirt.directAddress in host.json)',
    hypervisor: 'libvirt',
  })
  assert.is(await stateOn(target, 'direct'), undefined)
  await source.release('direct')
})

test('a guest whose disk is written to and lies on no shared storage may not leave', async () => {
  await defined('local', (xml) => xml.replace('<readonly/>', ''))
  const answer = await source.begin('local')
  assert.ok('refusal' in answer && answer.refusal.type === 'DiskUnmovable', JSON.stringify(answer))
  assert.is(answer.refusal.path, join(root, 'local.img'))
  assert.match(answer.refusal.why, /^libvirt does not take .*Unsafe migration.*--copy-disks/)
  assert.equal(await foreseen('local'), answer.refusal)

  const along = await source.begin('local', { copyDisks: true, definitionVersion: 2 })
  assert.ok('definition' in along, JSON.stringify(along))
  const { size } = await stat(join(root, 'local.img'))
  assert.equal((JSON.parse(along.definition) as { disks: unknown }).disks, [
    {
      target: 'fda',
      path: join(root, 'local.img'),
      format: 'raw',
      sizeBytes: size,
      usedBytes: 4096,
    },
  ])
  assert.equal(await source.begin('local', { copyDisks: true, definitionVersion: 1 }), {
    refusal: { type: 'DefinitionVersionUnsupported', offered: 2, supported: 1 },
  })
  await source.release('local')
})

test('a disk that only holds what differs from another one does not travel', async () => {
  const image = join(root, 'overlay.qcow2')
  const base = join(root, 'base.img')
  await writeFile(base, bootSector(quietGuest))
  const words = ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', image]
  await promisify(execFile)('qemu-img', words)
  await defined('overlaid', (xml) =>
    xml
      .replace("type='raw'", "type='qcow2'")
      .replace(join(root, 'overlaid.img'), image)
      .replace('<readonly/>', ''),
  )
  const answer = await source.begin('overlaid', { copyDisks: true, definitionVersion: 2 })
  assert.equal(answer, {
    refusal: {
      type: 'DiskUnmovable',
      path: image,
      why: 'it has a backing image: put them together first (virsh blockpull)',
    },
  })
  await source.release('overlaid')
})

test('a definition goes where its guest goes, once it runs there', async () => {
  await defined('kept')
  const known = async (host: string) =>
    (await hosts.virsh(host, 'list', '--all', '--persistent', '--name')).includes('kept')
  await loaded('kept')
  assert.equal([await known('source'), await known('target')], [true, false])
  await target.activate('kept')
  assert.equal([await known('source'), await known('target')], [true, true])
  await source.release('kept')
  assert.equal([await known('source'), await known('target')], [false, true])
  assert.not.match(await hosts.virsh('target', 'dumpxml', 'kept'), 'dev.ferry')
  assert.not.match(await hosts.virsh('target', 'dumpxml', '--inactive', 'kept'), 'dev.ferry')
  await target.release('kept')
})

test('is not sent with a cookie that libvirtd would die of', async () => {
  await defined('sweet')
  await prepared('sweet')
  const failure = await failureOf(
    source.perform('sweet', { ...performOrder(openWire()), cookie: '<a/>' }),
  )
  assert.is(failure.type, 'HypervisorFailed')
  assert.is(await stateOn(source, 'sweet'), 'running')
  await target.clear('sweet')
  await source.release('sweet')
})

test('both libvirtds may die between the copy and the verdict', async () => {
  await defined('steady')
  await loaded('steady')
  for (const name of names) {
    await hosts.end(name, 'SIGKILL')
    await hosts.start(name)
  }
  await until('both to be seen again', async () => {
    const seen = [stateOn(source, 'steady'), stateOn(target, 'steady')]
    return (await Promise.all(seen).catch(() => [])).join() === 'sent,loaded'
  })
  await target.activate('steady')
  await source.release('steady')
  assert.equal(
    [await stateOn(source, 'steady'), await stateOn(target, 'steady')],
    [undefined, 'running'],
  )
  await target.release('steady')
})

test.run()

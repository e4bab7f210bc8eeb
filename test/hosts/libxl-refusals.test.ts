import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import type { Driver, PerformOrder } from '@ferry/host-agent/driver'
import { FRAME_HEADER_BYTES } from '@ferry/host-agent/transfer/frames'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { testDial } from '../dial.ts'
import { failureOf } from '../failure.ts'
import { putPrograms } from '../lab/programs.ts'
import { openFarDriver } from '../lab/xen-driver.ts'
import { describeLibxlGuest, lastCount } from '../lab/xen-guest.ts'
import { LOOK_EVERY_MS, openXenHosts } from '../lab/xen-hosts.ts'
import type { XenHosts } from '../lab/xen-hosts.ts'
import { until } from '../until.ts'

/** What is particular about guests of Xen that belong to libvirt: what is refused, and what a libvirtd that dies leaves. */
const test = suite('libvirt and its guests of Xen')

const names = ['source', 'target'] as const
const PATIENCE_MS = 240_000
const vm = 'web1'
/** libxl's header, and the record with which its helper takes over. */
const BEGINNING = Buffer.from('4c6962786c466d7400000002000000000100000000000000', 'hex')
let root = ''
let hosts: XenHosts
let source: Driver
let target: Driver

test.before(async () => {
  root = await mkdtemp(join(tmpdir(), 'ferry-'))
  const where = {
    programs: join(root, 'programs'),
    definitions: join(root, 'vms'),
    tool: 'libxl',
  } as const
  await mkdir(where.definitions)
  await putPrograms(['test/lab/xen-seat.ts'], where.programs)
  hosts = await openXenHosts(root, names)
  for (const name of names) await hosts.startLibvirt(name)
  source = (await openFarDriver(hosts, 'source', where)).driver
  target = (await openFarDriver(hosts, 'target', where)).driver
  await writeFile(join(where.definitions, `${vm}.xml`), describeLibxlGuest(vm, 'small'))
  const begun = await source.start(vm)
  assert.ok('needs' in begun, JSON.stringify(begun))
  await goesOn()
})
test.after(async () => {
  await hosts.close()
  await rm(root, { recursive: true })
})

const counted = async () => (await lastCount(hosts, 'source', vm))?.count ?? -1

async function goesOn(): Promise<void> {
  const before = await counted()
  const isFurther = async () => (await counted()) > before
  await until(`${vm} to go on`, isFurther, PATIENCE_MS, LOOK_EVERY_MS)
  assert.is((await lastCount(hosts, 'source', vm))?.fault, undefined)
}

const states = async () =>
  Promise.all([source, target].map(async (each) => (await each.inspect())[0]?.state))

const virsh = (...words: string[]) => hosts.run('source', 'virsh', '-c', 'xen:///system', ...words)

async function landing() {
  const begun = await source.begin(vm)
  if ('refusal' in begun) throw new Error(JSON.stringify(begun))
  return { vm, ...begun, migration: 'm1', attempt: 1 }
}

const order = (more: Partial<PerformOrder>): PerformOrder => ({
  dial: testDial(),
  signal: new AbortController().signal,
  gate: async () => {},
  paused: () => {},
  round: () => {},
  progress: () => {},
  send: async () => {},
  ...more,
})

async function copy(): Promise<void> {
  const wire = new PassThrough()
  const sending = source.perform(
    vm,
    order({
      cookie: '2',
      send: async (image) => {
        for (let frame = await image.next(); frame !== undefined; frame = await image.next()) {
          const piece = Buffer.from(frame.subarray(FRAME_HEADER_BYTES))
          if (!wire.write(piece)) await new Promise((resolve) => wire.once('drain', resolve))
        }
        wire.end()
      },
    }),
  )
  const receiving = target.receive(vm, {
    signal: new AbortController().signal,
    fill: async (hypervisor) => {
      for await (const piece of wire)
        if (!hypervisor.write(piece))
          await new Promise((resolve) => hypervisor.once('drain', resolve))
      hypervisor.end()
    },
  })
  await Promise.all([sending, receiving])
}

test('a stream that the target cannot read is refused with both numbers, and nothing has moved', async () => {
  const begun = await landing()
  const definition = begun.definition.replace('"streamVersion":2', '"streamVersion":3')
  assert.is.not(definition, begun.definition)
  const refusal = await target.prepare({ ...begun, definition })
  assert.ok(refusal !== undefined && 'type' in refusal && refusal.type === 'CapabilityMissing')
  assert.match(refusal.capability, /version 3 .* none above 2/)
  assert.equal(await states(), ['running', undefined])
})

test('a source whose libvirt offers more than the target has said does not send, and its guest can be moved after that', async () => {
  const failure = await failureOf(source.perform(vm, order({ cookie: '1' })))
  assert.ok(failure.type === 'HypervisorFailed')
  assert.match(failure.message, /version 2 .* none above 1/)
  assert.match(await virsh('domjobinfo', vm), /None/)
  assert.equal(await states(), ['running', undefined])
  await goesOn()
})

test('a copy that nothing came to can be prepared anew, and leaves nobody listening', async () => {
  for (const attempt of [1, 2]) {
    const answer = await target.prepare({ ...(await landing()), attempt })
    assert.equal(answer, { cookie: '2' })
  }
  assert.equal(await states(), ['running', 'receiving'])
  await target.clear(vm)
  assert.equal(await states(), ['running', undefined])
  const { text } = await hosts.shell('target', 'ss -Hltn | grep 127.0.0.1:49')
  assert.is(text.trim(), '')
})

test('a copy that is broken off in the moment in which it begins is let go of at once, and libvirtd lives on', async () => {
  const daemon = () => hosts.run('target', 'cat', '/run/libvirtd.pid')
  const before = await daemon()
  await target.prepare(await landing())
  const breaking = new AbortController()
  const receiving = target.receive(vm, {
    signal: breaking.signal,
    fill: async (hypervisor) => {
      hypervisor.write(BEGINNING)
      breaking.abort()
      throw new Error('broken off')
    },
  })
  assert.match(await receiving.then(String, String), 'broken off')
  await target.clear(vm)
  assert.equal(await states(), ['running', undefined])
  const { text } = await hosts.shell('target', 'ss -Htn | grep 127.0.0.1:49')
  assert.is(text.trim(), '')
  assert.is(await daemon(), before)
  await hosts.run('target', 'sh', '-c', 'kill -0 $(cat /run/libvirtd.pid)')
})

test('both libvirtd may begin anew behind the copy: the guest runs on at home, and they know it', async () => {
  await target.prepare(await landing())
  await copy()
  assert.equal(await states(), ['sent', 'loaded'])
  for (const name of names) await hosts.startLibvirt(name)
  assert.equal(await states(), ['sent', 'loaded'])
  await target.clear(vm)
  assert.is((await source.resume(vm))?.wasPaused, true)
  assert.equal(await states(), ['running', undefined])
  await goesOn()
  assert.match(await virsh('domstate', vm), /running/)
})

test('a guest that its host would start by itself does not leave', async () => {
  await hosts.shell('source', `virsh -c xen:///system dumpxml ${vm} > /run/${vm}.xml`)
  await virsh('define', `/run/${vm}.xml`)
  await virsh('autostart', vm)
  assert.equal(await source.begin(vm), { refusal: { type: 'StartsByItself', vm } })
})

test('a guest that would have to stand still while it is copied does not leave', async () => {
  await writeFile(join(root, 'vms', 'web2.xml'), describeLibxlGuest('web2', 'linux pv'))
  const begun = await source.start('web2')
  assert.ok('needs' in begun, JSON.stringify(begun))
  const answer = await source.begin('web2')
  assert.ok('refusal' in answer && answer.refusal.type === 'HypervisorFailed')
  assert.match(answer.refusal.message, 'PV guest')
})

test.run()

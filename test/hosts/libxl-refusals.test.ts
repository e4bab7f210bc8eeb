import { failureOf } from '../failure.ts'
import { openWire, performOrder } from '../contract/wire.ts'
import { openXenPair } from '../lab/xen-pair.ts'
import type { XenPair } from '../lab/xen-pair.ts'
import { PATIENCE_MS, names } from '../lab/xen-seats.ts'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { nobodyTells } from '../contract/wire.ts'
import { until } from '../until.ts'

/** What is particular about guests of Xen that belong to libvirt: what is refused, and what a libvirtd that dies leaves. */
const test = suite('libvirt and its guests of Xen')

const vm = 'web1'
/** libxl's header, and the record with which its helper takes over. */
const BEGINNING = Buffer.from('4c6962786c466d7400000002000000000100000000000000', 'hex')
let pair: XenPair

test.before(async () => {
  pair = await openXenPair('libxl')
  await pair.start(vm, 'small')
})
test.after(async () => pair.close())

const states = () => pair.states(vm)
const landing = () => pair.landing(vm)
const virsh = (...words: string[]) =>
  pair.hosts.run('source', 'virsh', '-c', 'xen:///system', ...words)

test('a stream that the target cannot read is refused with both numbers, and nothing has moved', async () => {
  const begun = await landing()
  const definition = begun.definition.replace('"streamVersion":2', '"streamVersion":3')
  assert.is.not(definition, begun.definition)
  const refusal = await pair.target.prepare({ ...begun, definition })
  assert.ok(refusal !== undefined && 'type' in refusal && refusal.type === 'CapabilityMissing')
  assert.match(refusal.capability, /version 3 .* none above 2/)
  assert.equal(await states(), ['running', undefined])
})

test('a source whose libvirt offers more than the target has said does not send, and its guest can be moved after that', async () => {
  const failure = await failureOf(
    pair.source.perform(vm, {
      ...performOrder(openWire()),
      cookie: '1',
    }),
  )
  assert.ok(failure.type === 'HypervisorFailed')
  assert.match(failure.message, /version 2 .* none above 1/)
  assert.match(await virsh('domjobinfo', vm), /None/)
  assert.equal(await states(), ['running', undefined])
  await pair.goesOn(vm)
})

test('a copy that nothing came to can be prepared anew, and leaves nobody listening', async () => {
  for (const attempt of [1, 2]) {
    const answer = await pair.target.prepare({ ...(await landing()), attempt })
    assert.equal(answer, { cookie: '2' })
  }
  assert.equal(await states(), ['running', 'receiving'])
  await pair.target.clear(vm)
  assert.equal(await states(), ['running', undefined])
  const { text } = await pair.hosts.shell('target', 'ss -Hltn | grep 127.0.0.1:49')
  assert.is(text.trim(), '')
})

test('a copy that is broken off in the moment in which it begins is let go of at once, and libvirtd lives on', async () => {
  const daemon = () => pair.hosts.run('target', 'cat', '/run/libvirtd.pid')
  const before = await daemon()
  await pair.target.prepare(await landing())
  const breaking = new AbortController()
  const receiving = pair.target.receive(vm, {
    signal: breaking.signal,
    told: nobodyTells,
    fill: async (hypervisor) => {
      hypervisor.write(BEGINNING)
      breaking.abort()
      throw new Error('broken off')
    },
  })
  assert.match(await receiving.then(String, String), 'broken off')
  await pair.target.clear(vm)
  assert.equal(await states(), ['running', undefined])
  const { text } = await pair.hosts.shell('target', 'ss -Htn | grep 127.0.0.1:49')
  assert.is(text.trim(), '')
  assert.is(await daemon(), before)
  await pair.hosts.run('target', 'sh', '-c', 'kill -0 $(cat /run/libvirtd.pid)')
})

test('whoever would end a guest by virsh while it is sent is told that he cannot, and it is sent', async () => {
  await pair.target.prepare(await landing())
  let open = () => {}
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  let isPaused = false
  const copying = pair.copy(vm, {
    cookie: '2',
    gate: () => opened,
    paused: () => (isPaused = true),
  })
  copying.catch(() => {})
  await until('the guest to stand still', async () => isPaused, PATIENCE_MS)
  const { code, text } = await pair.hosts.shell('source', `virsh -c xen:///system destroy ${vm}`)
  open()
  await copying
  assert.is.not(code, 0)
  assert.match(text, 'cannot acquire state change lock')
  assert.equal(await states(), ['sent', 'loaded'])
  assert.match(await virsh('domstate', vm), /running/)
  await pair.target.clear(vm)
  await pair.source.resume(vm)
  await pair.goesOn(vm)
})

test('both libvirtd may begin anew behind the copy: the guest runs on at home, and they know it', async () => {
  await pair.target.prepare(await landing())
  await pair.copy(vm, { cookie: '2' })
  assert.equal(await states(), ['sent', 'loaded'])
  for (const name of names) await pair.hosts.startLibvirt(name)
  assert.equal(await states(), ['sent', 'loaded'])
  await pair.target.clear(vm)
  assert.is((await pair.source.resume(vm))?.wasPaused, true)
  assert.equal(await states(), ['running', undefined])
  await pair.goesOn(vm)
  assert.match(await virsh('domstate', vm), /running/)
})

test('a guest that its host would start by itself does not leave', async () => {
  await pair.hosts.shell('source', `virsh -c xen:///system dumpxml ${vm} > /run/${vm}.xml`)
  await virsh('define', `/run/${vm}.xml`)
  await virsh('autostart', vm)
  assert.equal(await pair.source.begin(vm), { refusal: { type: 'StartsByItself', vm } })
})

test('a guest that would have to stand still while it is copied does not leave', async () => {
  await pair.start('web2', 'linux pv')
  const answer = await pair.source.begin('web2')
  assert.ok('refusal' in answer && answer.refusal.type === 'HypervisorFailed')
  assert.match(answer.refusal.message, 'PV guest')
})

test.run()

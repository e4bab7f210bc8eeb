import { cookieOf, streamVersionIn, streamVersionOf } from '@ferry/host-agent/drivers/libxl/cookie'
import { madeFor, stateOf } from '@ferry/host-agent/drivers/libxl/copy'
import { DomainState } from '@ferry/host-agent/drivers/libvirt/words'
import type { DomainState as XenState } from '@ferry/host-agent/drivers/xen/listing'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

const test = suite('guests of Xen that belong to libvirt')

const domain = { name: 'web<1>', uuid: Buffer.from('0123456789abcdef'.repeat(2), 'hex'), id: 4 }
const needs = {
  memoryBytes: 1,
  vcpus: 1,
  hypervisor: 'libxl',
  machine: 'xenpvh',
  cpu: 'host',
  accelerator: 'xen',
}
const receives = { migration: 'm1', attempt: 2 }
const note = { vm: domain.name, needs, receives, port: 49_152, isVisited: false }
const { running, paused, shutOff, asleep } = DomainState

const table = [
  ['running', 'running', running, undefined, false],
  ['running', 'running', paused, undefined, false],
  ['paused', 'paused', paused, undefined, false],
  ['sent', 'suspended', running, undefined, true],
  ['sent', 'suspended', asleep, undefined, true],
  ['paused', 'suspended', running, undefined, false],
  [undefined, undefined, shutOff, undefined, false],
  ['receiving', undefined, shutOff, note, false],
  ['receiving', 'paused', shutOff, note, false],
  ['receiving', 'paused', undefined, note, false],
  ['receiving', undefined, undefined, note, false],
  ['loaded', 'paused', paused, note, false],
  ['running', 'running', running, note, false],
  [undefined, 'running', undefined, undefined, false],
] as const

const seenIn = ([, inXen, state, itsNote, isOurs]: (typeof table)[number]) => ({
  domain: state === undefined ? undefined : domain,
  state,
  inXen: inXen && { domid: 4, name: domain.name, state: inXen satisfies XenState },
  note: itsNote,
  isOurs,
})

test('what a copy is, is decided by what libvirtd, Xen and the host’s own files say', () => {
  for (const row of table) assert.is(stateOf(seenIn(row)), row[0], JSON.stringify(row))
})

test('a copy shows its attempt until it has been started, and not for one moment longer', () => {
  for (const row of table) {
    const [is] = row
    if (is === undefined) continue
    const shown = madeFor({ ...seenIn(row), vm: domain.name, is })
    assert.equal(shown, is === 'receiving' || is === 'loaded' ? receives : undefined)
  }
})

test('a cookie says whose guest it is, and in which version its image will be', () => {
  const cookie = cookieOf(domain, 3)
  assert.match(cookie, '<name>web&lt;1&gt;</name>')
  assert.match(cookie, '<uuid>01234567-89ab-cdef-0123-456789abcdef</uuid>')
  assert.is(streamVersionIn(cookie), 3)
})

test('a libvirt that says no version writes the first, and so does a Xen before 4.6', () => {
  assert.is(streamVersionIn(''), 1)
  assert.is(streamVersionIn('<libxl-migration><name>web1</name></libxl-migration>'), 1)
  assert.equal([4_005_000n, 4_006_000n, 4_017_000n].map(streamVersionOf), [1, 2, 2])
})

test.run()

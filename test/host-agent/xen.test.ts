import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { copyOf, copiesOf, madeFor } from '@ferry/host-agent/drivers/xen/copy'
import { disksOf, missingOf, writeOut } from '@ferry/host-agent/drivers/xen/disks'
import { roleOf } from '@ferry/host-agent/drivers/xen/handshake'
import { ImageInvalid, imageScan } from '@ferry/host-agent/drivers/xen/image-scan'
import {
  configsIn,
  domainsIn,
  infoIn,
  nameIn,
  needsOf,
} from '@ferry/host-agent/drivers/xen/listing'
import type { DomainState } from '@ferry/host-agent/drivers/xen/listing'
import { systemClock } from '@ferry/events/clock'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { failureOf } from '../failure.ts'

/**
 * What xl 4.17.7 of Debian 12 printed and sent (`xen-said.json`), and what is read from it. Of an image there are the
 * bytes before and behind its pages; of the pages only how many bytes each record had, and the number of its first page.
 */
type Said = {
  readonly list: string
  readonly details: string
  readonly info: string
  readonly image: {
    readonly head: string
    /** `bytes:page`, for each record. */
    readonly pages: string
    readonly tail: string
  }
}

const test = suite('Xen, as xl tells of it')
let said: Said
test.before(async () => {
  said = JSON.parse(await readFile(join(import.meta.dirname, 'xen-said.json'), 'utf8')) as Said
})

const pagesOf = ({ pages }: Said['image']) =>
  pages.split(' ').map((record): readonly [number, number] => {
    const [bytes, page] = record.split(':').map(Number)
    return [bytes ?? 0, page ?? 0]
  })

/** @param mostBytes the pages of a record are cut off there: an image of the same records that is read sooner. */
function imageOf(image: Said['image'], mostBytes = Number.POSITIVE_INFINITY): Buffer {
  const { head, tail } = image
  const records = pagesOf(image).map(([length, page]) => {
    const bytes = Math.min(length, mostBytes)
    const record = Buffer.alloc(8 + bytes)
    record.writeUInt32LE(1, 0)
    record.writeUInt32LE(bytes, 4)
    record.writeUInt32LE(1, 8)
    record.writeBigUInt64LE(BigInt(page), 16)
    return record
  })
  return Buffer.concat([Buffer.from(head, 'hex'), ...records, Buffer.from(tail, 'hex')])
}

const go = Buffer.from('domain is yours, you are cleared to unpause\0')

test('the end of an image is found, to the byte, however it is cut', () => {
  for (const size of [1, 7, 4096, 65_536, 1_000_000]) {
    const image = size < 4096 ? imageOf(said.image, 64) : imageOf(said.image)
    const all = Buffer.concat([image, go])
    const scan = imageScan()
    let taken = 0
    for (let at = 0; at < all.length; at += size) taken += scan.take(all.subarray(at, at + size))
    assert.is(taken, image.length, `in pieces of ${size}`)
    assert.ok(scan.isWhole())
  }
})

test('an image that lacks its last byte is not whole', () => {
  const image = imageOf(said.image)
  const scan = imageScan()
  scan.take(image.subarray(0, -1))
  assert.not.ok(scan.isWhole())
})

test('a round ends where the pages begin anew, and the guest stands still behind the last', () => {
  const scan = imageScan()
  const image = imageOf(said.image)
  const pagesEnd = image.length - said.image.tail.length / 2
  scan.take(image.subarray(0, pagesEnd))
  const pages = pagesOf(said.image)
  const turns = pages.filter(([, page], nth) => nth > 0 && page <= (pages[nth - 1]?.[1] ?? 0))
  assert.is(scan.rounds(), turns.length + 1)
  assert.ok(scan.rounds() > 1)
  assert.not.ok(scan.isPaused())
  scan.take(image.subarray(pagesEnd))
  assert.ok(scan.isPaused())
})

test('what is no image of Xen’s is not taken for one', () => {
  assert.throws(
    () => imageScan().take(Buffer.alloc(64)),
    (error: unknown) => error instanceof ImageInvalid,
  )
})

test('a list of domains is read, whatever they are called', () => {
  assert.equal(domainsIn(said.list), [
    { domid: 1, name: 'web2', state: 'paused' },
    { domid: 2, name: 'web1--migratedaway', state: 'suspended' },
  ])
  const row = (name: string, flags: string) =>
    domainsIn(`Name  ID  Mem VCPUs State Time(s)\n${name}  7  96  1  ${flags}  12.5\n`)
  assert.equal(row('a name with 3 4 5 spaces', '-b----'), [
    { domid: 7, name: 'a name with 3 4 5 spaces', state: 'running' },
  ])
  assert.equal(
    ['r-----', '-b----', '------', '--p---'].map((flags) => row('x', flags)[0]?.state),
    ['running', 'running', 'running', 'paused'],
  )
  assert.is(row('x', '---sc-')[0]?.state, 'ended')
  assert.equal(row('x', '-----d'), [])
})

test('what a guest needs is read from what it was made as', () => {
  const config = configsIn(said.details).get(2)
  assert.ok(config !== undefined)
  const needs = needsOf(config)
  assert.is(needs.machine, 'pvh')
  assert.is(needs.vcpus, 1)
  assert.ok(needs.memoryBytes >= 112 * 1024 ** 2 && needs.memoryBytes < 130 * 1024 ** 2)
})

test('a host says what it can run', () => {
  const info = infoIn(said.info)
  assert.match(info.get('xen_version') ?? '', /^4\.17\./)
  assert.match(info.get('virt_caps') ?? '', /\bpv\b.*\bhvm\b/)
  assert.ok(Number(info.get('free_memory')) > 0)
})

test('the name in a guest’s file is found', () => {
  assert.is(nameIn('type = "pvh"\n  name="web1" # the first\n'), 'web1')
  assert.is(nameIn("name = 'web1'"), 'web1')
  assert.is(nameIn('vnc_name = "web1"\n'), undefined)
})

test('a domain’s name says whose copy it is', () => {
  assert.equal(roleOf('web1'), { vm: 'web1', role: 'home' })
  assert.equal(roleOf('web1--incoming'), { vm: 'web1', role: 'incoming' })
  assert.equal(roleOf('web1--migratedaway'), { vm: 'web1', role: 'away' })
})

const needs = {
  memoryBytes: 1,
  vcpus: 1,
  hypervisor: 'xen',
  machine: 'pvh',
  cpu: 'host',
  accelerator: 'xen',
}
const receives = { migration: 'm1', attempt: 2 }
const note = { vm: 'web1', needs, receives, isLoaded: false }
const loaded = { ...note, isLoaded: true }
const of = (name: string, state: DomainState) => [{ domid: 4, name, state }]

const table = [
  ['running', of('web1', 'running'), undefined],
  ['paused', of('web1', 'paused'), undefined],
  ['paused', of('web1', 'suspended'), undefined],
  ['paused', of('web1', 'ended'), undefined],
  ['sent', of('web1--migratedaway', 'suspended'), undefined],
  ['sent', of('web1--migratedaway', 'paused'), undefined],
  ['running', of('web1--migratedaway', 'running'), undefined],
  ['receiving', [], note],
  ['receiving', of('web1--incoming', 'paused'), note],
  ['loaded', of('web1--incoming', 'paused'), loaded],
  ['running', of('web1--incoming', 'running'), loaded],
  ['running', of('web1', 'running'), loaded],
  [undefined, of('web2', 'running'), undefined],
] as const

test('what a copy is, is decided by what is there', () => {
  for (const [state, domains, itsNote] of table)
    assert.is(copyOf('web1', domains, itsNote)?.state, state, JSON.stringify(domains))
})

test('a copy shows its attempt until it has been started, and not for one moment longer', () => {
  for (const [state, domains, itsNote] of table) {
    const copy = copyOf('web1', domains, itsNote)
    const shown = copy && madeFor(copy)
    assert.equal(shown, state === 'receiving' || state === 'loaded' ? receives : undefined)
  }
})

test('every copy on a host is told of once', () => {
  const domains = [...of('web1', 'running'), ...of('web2--incoming', 'paused')]
  const copies = copiesOf(domains, [
    { ...note, vm: 'web2' },
    { ...note, vm: 'web3' },
  ])
  assert.equal(
    copies.map(({ vm, state }) => [vm, state]),
    [
      ['web1', 'running'],
      ['web2', 'receiving'],
      ['web3', 'receiving'],
    ],
  )
})

test('a disk that no path leads to is no missing one: the script that attaches it finds it', async () => {
  const gone = join(import.meta.dirname, 'no-such-disk')
  assert.is(await missingOf(['iqn.2026-11.example:web1', 'r0', import.meta.dirname]), undefined)
  assert.is(await missingOf(['r0', import.meta.dirname, gone]), gone)
})

test('the disks of a paused guest are written out, and one that cannot be keeps it at home', async () => {
  const config = {
    c_info: {},
    b_info: {},
    disks: [{ pdev_path: 'r0' }, { pdev_path: import.meta.filename }, {}],
  }
  assert.equal(disksOf(config), ['r0', import.meta.filename])
  await writeOut(disksOf(config), systemClock)
  const gone = join(import.meta.dirname, 'no-such-disk')
  const failure = await failureOf(writeOut([import.meta.filename, gone], systemClock))
  assert.ok(failure.type === 'HypervisorFailed')
  assert.match(failure.message, gone)
})

test.run()

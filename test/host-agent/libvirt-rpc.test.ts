import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { procedures } from '@ferry/host-agent/drivers/libvirt/procedures'
import type { Parameter } from '@ferry/host-agent/drivers/libvirt/procedures'
import { connectLibvirt } from '@ferry/host-agent/drivers/libvirt/rpc'
import type { Libvirt } from '@ferry/host-agent/drivers/libvirt/rpc'
import { XdrInvalid, decode, encode } from '@ferry/host-agent/drivers/libvirt/xdr'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../until.ts'

/**
 * libvirt's protocol against what a libvirtd 9.0.0 of Debian 12 said, byte by byte (`libvirt-wire.json`: hex, by turns),
 * and against what none would say.
 */
type Turn = { readonly client: string; readonly libvirtd: string }

const test = suite('libvirt on the wire')
let folder = ''
let turns: readonly Turn[] = []
test.before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ferry-'))
  turns = JSON.parse(await readFile(join(import.meta.dirname, 'libvirt-wire.json'), 'utf8'))
})
test.after(() => rm(folder, { recursive: true }))

/** A libvirtd that answers each turn with what it says, and a client that has been let in. */
async function talk(
  answers: readonly Turn[],
  work: (
    libvirt: Libvirt,
    seat: { readonly heard: () => string; say: (bytes: string) => void },
  ) => Promise<void>,
): Promise<void> {
  const path = join(folder, 'libvirt-sock')
  let heard = ''
  let visitor: Socket | undefined
  const server = createServer((socket) => {
    visitor = socket
    let turn = 0
    let came = ''
    socket
      .on('error', () => {})
      .on('data', (chunk) => {
        heard += chunk.toString('hex')
        came += chunk.toString('hex')
        const answer = answers[turn]
        if (answer === undefined || came.length < answer.client.length) return
        turn += 1
        came = ''
        socket.write(Buffer.from(answer.libvirtd, 'hex'))
      })
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  try {
    const libvirt = await connectLibvirt(path, systemClock)
    const say = (bytes: string) => void visitor?.write(Buffer.from(bytes, 'hex'))
    await work(libvirt, { heard: () => heard, say })
    libvirt.close()
  } finally {
    visitor?.destroy()
    await new Promise((resolve) => server.close(resolve))
  }
}

/** The turns that let a client in: how it may prove itself, and the hypervisor that it opens. */
const letIn = () => turns.slice(0, 2)

/** A packet with these numbers in its head. */
const packet = (head: readonly number[], payload = '', length?: number): string => {
  const bytes = Buffer.alloc(HEAD_BYTES)
  bytes.writeUInt32BE(length ?? HEAD_BYTES + payload.length / 2, 0)
  for (const [nth, value] of head.entries()) bytes.writeUInt32BE(value, 4 + nth * 4)
  return bytes.toString('hex') + payload
}
const HEAD_BYTES = 28
const REMOTE = 0x2000_8086
const reply = (procedure: number, serial: number) => [REMOTE, 1, procedure, 1, serial, 0]

test('says and understands what libvirtd says and understands', () =>
  talk(turns, async (libvirt, { heard }) => {
    const { call } = libvirt
    assert.equal(await call(procedures.libraryVersion, undefined), { version: 9_000_000n })
    assert.equal((await call(procedures.domains, { wantsResults: 1, flags: 1 })).domains, [])
    try {
      await call(procedures.lookUp, { name: 'nobody' })
      assert.unreachable()
    } catch (error) {
      const { code, message } = error as { code: number; message: string }
      assert.is(code, 42)
      assert.match(message, 'no domain with matching name')
    }
    const seen: unknown[] = []
    await libvirt.on('lifecycle', ({ domain, change, detail }) =>
      seen.push([domain.name, change, detail]),
    )
    const recorded = Buffer.from(turns[6]?.client ?? '', 'hex').subarray(HEAD_BYTES)
    const { domain } = await call(
      procedures.createXml,
      decode(procedures.createXml.takes, recorded),
    )
    assert.is(domain.name, 'web1')
    assert.is(domain.uuid.toString('hex'), '11111111222243338444555555555555')
    await until('libvirtd to tell of it', () => seen.length === 2)
    assert.equal(await call(procedures.state, { domain, flags: 0 }), { state: 1, reason: 1 })
    assert.equal((await call(procedures.domains, { wantsResults: 1, flags: 1 })).domains, [domain])
    assert.is((await call(procedures.jobNumbers, { domain, flags: 0 })).type, 0)
    const begun = await call(procedures.begin, { domain, parameters: [], flags: 33 })
    assert.match(begun.cookie, /^<qemu-migration>[^]*<capabilities>[^]*<\/qemu-migration>\s*$/)
    assert.match(begun.xml, '<name>web1</name>')
    assert.is(heard(), turns.map(({ client }) => client).join(''))
  }))

const broken: readonly (readonly [string, () => string])[] = [
  ['a packet that says it is shorter than its head', () => packet(reply(157, 3), '', 27)],
  ['a packet that says it is larger than any', () => packet(reply(157, 3), '', 0x7fff_ffff)],
  ['another version of the program', () => packet([REMOTE, 2, 157, 1, 3, 0], '0'.repeat(16))],
  ['a program that there is not', () => packet([0x2000_8099, 1, 157, 1, 3, 0], '0'.repeat(16))],
  ['the answer of another program', () => packet([0x2000_8087, 1, 157, 1, 3, 0], '0'.repeat(16))],
  ['an answer that nobody asked for', () => packet(reply(157, 99), '0'.repeat(16))],
  ['the answer of another procedure', () => packet(reply(4, 3), '0'.repeat(16))],
  ['a call', () => packet([REMOTE, 1, 157, 0, 3, 0])],
  ['an error that is none', () => packet([REMOTE, 1, 157, 1, 3, 1], '00')],
]
for (const [what, bytes] of broken)
  test(`${what} ends the connection, and whoever waits hears of it`, () =>
    talk(letIn(), async (libvirt, { say }) => {
      const asking = libvirt.call(procedures.libraryVersion, undefined)
      say(bytes())
      assert.is(await asking.catch((error: Error) => error.name), 'ConnectionLost')
      await libvirt.closed
    }))

for (const [what, payload] of [
  ['nothing', ''],
  ['half a number', '00000000'],
  ['more than a number', '0'.repeat(24)],
] as const)
  test(`a result that is ${what} is no result`, () =>
    talk(letIn(), async (libvirt, { say }) => {
      const asking = libvirt.call(procedures.libraryVersion, undefined)
      say(packet(reply(157, 3), payload))
      assert.is(await asking.catch((error: Error) => error.name), 'XdrInvalid')
    }))

test('a packet may come in pieces, and an event that is not known is passed over', () =>
  talk(letIn(), async (libvirt, { say }) => {
    const asking = libvirt.call(procedures.libraryVersion, undefined)
    const bytes =
      packet([REMOTE, 1, 9999, 2, 0, 0], '00') + packet(reply(157, 3), '00000000000000ff')
    for (let at = 0; at < bytes.length; at += 6) say(bytes.slice(at, at + 6))
    assert.equal(await asking, { version: 255n })
  }))

test('a daemon that asks whether somebody is there is told so', () =>
  talk(letIn(), async (_, { heard, say }) => {
    const before = heard().length
    say(packet([0x6b65_6570, 1, 1, 2, 0, 0]))
    await until('an answer', () => heard().length > before)
    assert.is(heard().slice(before), packet([0x6b65_6570, 1, 2, 2, 0, 0]))
  }))

test('a daemon that wants a password is not let to wait for one', async () => {
  const sasl = packet(reply(66, 1), '0000000100000001')
  const [first] = letIn()
  assert.ok(first !== undefined)
  const said = await talk([{ ...first, libvirtd: sasl }], async () => {}).catch(
    (error: Error) => error.message,
  )
  assert.match(String(said), 'SASL')
})

test('what is out of bounds is neither read nor made room for', () => {
  const { domains, jobNumbers } = procedures
  assert.throws(() => decode(domains.gives, Buffer.from('ffffffff', 'hex')), isXdrInvalid)
  assert.throws(() => decode(domains.gives, Buffer.from('0000000100400001', 'hex')), isXdrInvalid)
  assert.throws(
    () => decode(jobNumbers.gives, Buffer.from('0000000000000041', 'hex')),
    isXdrInvalid,
  )
  const oddKind = Buffer.from('00000000000000010000000161000000000000ff', 'hex')
  assert.throws(() => decode(jobNumbers.gives, oddKind), isXdrInvalid)
  const oddOption = Buffer.from('00000000 00000002'.replace(' ', ''), 'hex')
  assert.throws(() => decode(procedures.prepare.gives, oddOption), isXdrInvalid)
})

const isXdrInvalid = (error: Error) => error instanceof XdrInvalid

test('every kind of parameter comes back as it went', () => {
  const parameters: Parameter[] = [
    { field: 'a', is: 'int', value: -1 },
    { field: 'bc', is: 'uint', value: 2 ** 32 - 1 },
    { field: 'def', is: 'llong', value: -(2n ** 63n) },
    { field: 'ghij', is: 'ullong', value: 2n ** 64n - 1n },
    { field: 'k', is: 'double', value: 0.5 },
    { field: 'l', is: 'boolean', value: true },
    { field: 'm', is: 'string', value: 'Fähre' },
  ]
  const { takes } = procedures.prepare
  const value = { parameters, cookie: '<a/>', flags: 33 }
  assert.equal(decode(takes, encode(takes, value)), value)
})

test.run()

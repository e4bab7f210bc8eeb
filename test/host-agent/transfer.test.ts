import { randomBytes } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { connect as connectTcp, createServer } from 'node:net'
import { PassThrough, Writable } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import { systemClock, within } from '@ferry/events/clock'
import type { CopyFailed } from '@ferry/host-agent/driver'
import { textFrame, writeHead } from '@ferry/host-agent/transfer/frames'
import { imageFromPieces } from '@ferry/host-agent/transfer/image'
import type { Image } from '@ferry/host-agent/transfer/image'
import { makePace } from '@ferry/host-agent/transfer/pace'
import { openArrival } from '@ferry/host-agent/transfer/arrival'
import type { Arrival } from '@ferry/host-agent/transfer/arrival'
import { openPort } from '@ferry/host-agent/transfer/port'
import type { TransferPort } from '@ferry/host-agent/transfer/port'
import { openSender } from '@ferry/host-agent/transfer/send'
import { greetingFor, tlsOptions, tlsWire } from '@ferry/host-agent/transfer/tls-wire'
import type { Intruder, Visit, Wire } from '@ferry/host-agent/transfer/wire'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { failureOf } from '../failure.ts'
import { until } from '../until.ts'

const test = suite('a transfer')

type Opened = {
  readonly port: TransferPort
  readonly intruders: Intruder[]
  /** A transfer for this attempt, and what waits for its visitor. */
  readonly open: (
    attempt: string,
    known?: { transfer: string; key: Uint8Array },
  ) => { transfer: string; key: Uint8Array; arrival: Arrival }
  /** How many have said what they came for. */
  readonly visits: () => number
  /** How many of them were let in. */
  readonly entries: () => number
}

async function withPort(
  work: (opened: Opened) => Promise<void>,
  options: { expiresAfterMs?: number; unknownWaitMs?: number } = {},
): Promise<void> {
  const { expiresAfterMs = 20_000, unknownWaitMs = 0 } = options
  const intruders: Intruder[] = []
  const [wire, clock] = [tlsWire, systemClock]
  const refused = (intruder: Intruder) => void intruders.push(intruder)
  let visits = 0
  let entries = 0
  const counting: Wire = {
    ...wire,
    listen: (at, door) => {
      const visit = (visitor: Visit) => {
        visits += 1
        door.visit(visitor)
      }
      return wire.listen(at, { ...door, visit })
    },
  }
  const listen = { host: '127.0.0.1', port: 0 }
  const port = await openPort({ listen, wire: counting, clock, refused, unknownWaitMs })
  const arrivals: Arrival[] = []
  const open: Opened['open'] = (attempt, known) => {
    const { transfer, key } = known ?? {
      transfer: randomBytes(16).toString('hex'),
      key: randomBytes(32),
    }
    const expiresAt = clock.now() + expiresAfterMs
    const used = () => {
      entries += 1
      port.used(transfer)
    }
    port.expect(transfer, attempt, expiresAt)
    const expected = { transfer, key, expiresAt, version: 1 }
    const arrival = openArrival(expected, { wire, clock, used, refused })
    port.receive(transfer, arrival.visit)
    arrivals.push(arrival)
    return { transfer, key, arrival }
  }
  try {
    await work({ port, intruders, open, visits: () => visits, entries: () => entries })
  } finally {
    for (const arrival of arrivals) arrival.close()
    await port.close()
  }
}

/** A hypervisor that takes an image and remembers it. */
function hypervisor() {
  const taken: Buffer[] = []
  const stream = new Writable({
    write: (chunk: Buffer, _, done) => {
      taken.push(Buffer.from(chunk))
      done()
    },
  })
  return { stream, image: () => Buffer.concat(taken) }
}

const never = new AbortController().signal
setMaxListeners(0, never)
const sender = (port: TransferPort, transfer: string, key: Uint8Array) =>
  openSender(
    { transfer, key, address: port.address, version: 1 },
    { wire: tlsWire, clock: systemClock, paces: [], signal: never },
  )

const imageOf = (...pieces: Buffer[]): Image =>
  imageFromPieces(
    (async function* () {
      yield* pieces
    })(),
  )

/** A visitor who has the key, and then does as he likes. */
async function visitor(port: TransferPort, identity: string, psk: Uint8Array) {
  const plain = connectTcp(port.address)
  plain.write(greetingFor(identity, 1))
  const socket = connectTls({
    ...tlsOptions,
    socket: plain,
    pskCallback: () => ({ psk, identity }),
    checkServerIdentity: () => undefined,
  })
  socket.on('error', () => {})
  socket.resume()
  await new Promise<void>((resolve, reject) => {
    socket.once('secureConnect', resolve)
    socket.once('close', () => reject(new Error('turned away')))
  })
  return socket
}

const header = (transfer: string) => textFrame('header', { version: 1, transfer })
const data = (bytes: Buffer) =>
  Buffer.concat([writeHead(Buffer.alloc(8), 'data', bytes.length), bytes])

test('a visitor names the version of the stream that was agreed on, in a line of the same length', () => {
  assert.is(greetingFor('t1', 1), `FERRY/2 ${'t1'.padEnd(64)}\n`)
  assert.is(greetingFor('t1', 2), `FERRY/3 ${'t1'.padEnd(64)}\n`)
})

test('carries an image to the byte, and both ends have the same receipt', () =>
  withPort(async ({ port, open }) => {
    const image = randomBytes(20_000_000)
    const { transfer, key, arrival } = open('m1.1')
    const target = hypervisor()
    const receiving = arrival.receive(target.stream, never)
    const source = await sender(port, transfer, key)
    await source.send(imageOf(image))
    const sent = await source.finish()
    assert.equal(await receiving, { ...sent, hasEndFrame: true })
    assert.is(sent.bytes, image.length)
    assert.ok(target.image().equals(image))
  }))

test('an empty image is an image', () =>
  withPort(async ({ port, open }) => {
    const { transfer, key, arrival } = open('m1.1')
    const receiving = arrival.receive(hypervisor().stream, never)
    const source = await sender(port, transfer, key)
    await source.send(imageOf())
    await source.finish()
    assert.is((await receiving).bytes, 0)
  }))

test('works once: the same id is turned away, and the first one goes on', () =>
  withPort(async ({ port, intruders, open }) => {
    const { transfer, key, arrival } = open('m1.1')
    const receiving = arrival.receive(hypervisor().stream, never)
    const source = await sender(port, transfer, key)
    const failure = await failureOf(sender(port, transfer, key))
    assert.is(failure.type, 'TransferRejected')
    assert.equal(
      intruders.map(({ why }) => why),
      ['UsedTransfer'],
    )
    await source.send(imageOf(Buffer.from('still here')))
    await source.finish()
    assert.is((await receiving).bytes, 10)
  }))

test('a wrong key is turned away, and does not use the transfer up', () =>
  withPort(async ({ port, intruders, open }) => {
    const { transfer, key } = open('m1.1')
    assert.is((await failureOf(sender(port, transfer, randomBytes(32)))).type, 'TransferRejected')
    assert.equal(
      intruders.map(({ why, transfer: id }) => [why, id]),
      [['WrongKey', transfer]],
    )
    ;(await sender(port, transfer, key)).close()
  }))

test('an unknown id, an expired one, and one that was forgotten are turned away, and told apart', async () => {
  await withPort(async ({ port, intruders, open }) => {
    assert.is((await failureOf(sender(port, 'nobody', randomBytes(32)))).type, 'TransferRejected')
    const forgotten = open('m1.1')
    port.forget('m1.1')
    assert.is(
      (await failureOf(sender(port, forgotten.transfer, forgotten.key))).type,
      'TransferRejected',
    )
    assert.equal(
      intruders.map(({ why }) => why),
      ['UnknownTransfer', 'UnknownTransfer'],
    )
  })
  await withPort(
    async ({ port, intruders, open }) => {
      const { transfer, key, arrival } = open('m1.1')
      const failure = await failureOf(arrival.receive(hypervisor().stream, never))
      assert.equal(failure, { type: 'TransferExpired', transfer })
      assert.is((await failureOf(sender(port, transfer, key))).type, 'TransferRejected')
      assert.equal(
        intruders.map(({ why }) => why),
        ['ExpiredTransfer'],
      )
    },
    { expiresAfterMs: 50 },
  )
})

test('a new transfer for an attempt makes the one before worthless', () =>
  withPort(async ({ port, open }) => {
    const first = open('m1.1')
    const second = open('m1.1')
    assert.is((await failureOf(sender(port, first.transfer, first.key))).type, 'TransferRejected')
    ;(await sender(port, second.transfer, second.key)).close()
  }))

test('garbage on the port is turned away', () =>
  withPort(async ({ port, intruders }) => {
    const socket = connectTcp(port.address)
    socket.on('error', () => {})
    socket.end('GET / HTTP/1.1\r\n\r\n')
    await until('the garbage to be told', () => intruders.length > 0)
    assert.is(intruders[0]?.why, 'NotFerry')
    assert.ok((intruders[0]?.remoteAddress ?? '').length > 0)
  }))

const wrongStreams: [string, (transfer: string) => Buffer[], CopyFailed['failure']['type']][] = [
  ['no header', () => [data(Buffer.from('x'))], 'FrameInvalid'],
  ['the header of another transfer', () => [header('another')], 'FrameInvalid'],
  ['a header twice', (id) => [header(id), header(id)], 'FrameInvalid'],
  ['another version', (id) => [textFrame('header', { version: 2, transfer: id })], 'FrameInvalid'],
  [
    'an unknown kind of frame',
    (id) => [header(id), Buffer.from('0000000900000001ff', 'hex')],
    'FrameInvalid',
  ],
  [
    'an endless text frame',
    (id) => [header(id), Buffer.from('00000003ffffffff', 'hex')],
    'FrameInvalid',
  ],
  [
    'a text frame that is no JSON',
    (id) => [header(id), Buffer.from('00000003000000017b', 'hex')],
    'FrameInvalid',
  ],
  [
    'a byte too few',
    (id) => [
      header(id),
      data(Buffer.from('abc')),
      textFrame('end', { bytes: 4, digest: '0'.repeat(32) }),
    ],
    'CountMismatch',
  ],
  [
    'a flipped byte',
    (id) => [
      header(id),
      data(Buffer.from('abc')),
      textFrame('end', { bytes: 3, digest: '0'.repeat(32) }),
    ],
    'DigestMismatch',
  ],
]
for (const [what, frames, type] of wrongStreams)
  test(`${what}: the image is not complete, and the failure says why`, () =>
    withPort(async ({ port, open }) => {
      const { transfer, key, arrival } = open('m1.1')
      const receiving = arrival.receive(hypervisor().stream, never)
      const socket = await visitor(port, transfer, key)
      for (const frame of frames(transfer)) socket.write(frame)
      assert.is((await failureOf(receiving)).type, type)
      socket.destroy()
    }))

test('a stream that is cut anywhere is never a complete image', () =>
  withPort(async ({ port, open }) => {
    const whole = Buffer.concat([
      header('t'.repeat(32)),
      data(randomBytes(300)),
      data(randomBytes(300)),
    ])
    for (const length of [
      0,
      3,
      8,
      20,
      header('t'.repeat(32)).length,
      whole.length - 1,
      whole.length,
    ]) {
      const { transfer, key, arrival } = open('m1.1')
      const receiving = arrival.receive(hypervisor().stream, never)
      const socket = await visitor(port, transfer, key)
      const stream = Buffer.concat([header(transfer), whole.subarray(header(transfer).length)])
      socket.write(stream.subarray(0, length), () =>
        length % 2 === 0 ? socket.end() : socket.destroy(),
      )
      const failure = await failureOf(receiving)
      assert.is(failure.type, 'StreamCut', `cut after ${length}`)
    }
  }))

test('who comes before a new agent has read the log waits until it knows the transfer, and not for ever', () =>
  withPort(
    async ({ port, intruders, open, visits }) => {
      const [transfer, key] = ['a'.repeat(32), randomBytes(32)]
      const sending = sender(port, transfer, key)
      const lost = failureOf(sender(port, 'b'.repeat(32), key))
      await until('both to have come', () => visits() === 2)
      const { arrival } = open('m1.1', { transfer, key })
      const receiving = arrival.receive(hypervisor().stream, never)
      const sent = await (await sending).finish()
      assert.equal(await receiving, { ...sent, hasEndFrame: true })
      assert.is((await lost).type, 'TransferRejected')
      assert.equal(
        intruders.map(({ why }) => why),
        ['UnknownTransfer'],
      )
    },
    { unknownWaitMs: 2000 },
  ))

test('a target that goes away is a broken stream at the source', () =>
  withPort(async ({ port, open }) => {
    const { transfer, key, arrival } = open('m1.1')
    const stop = new AbortController()
    const target = hypervisor()
    const receiving = arrival.receive(target.stream, stop.signal)
    const source = await sender(port, transfer, key)
    const image = new PassThrough()
    const failing = Promise.all([
      failureOf(receiving),
      failureOf(source.send(imageFromPieces(image))),
    ])
    image.write(randomBytes(1000))
    await until('the first bytes to arrive', () => target.image().length === 1000)
    stop.abort()
    assert.equal(
      (await failing).map(({ type }) => type),
      ['StreamCut', 'StreamBroken'],
    )
    assert.is((await failureOf(source.finish())).type, 'StreamBroken')
  }))

test('a source that came before its target was told to stop, and says nothing more, is not waited for', () =>
  withPort(async ({ port, open, entries }) => {
    const { transfer, key, arrival } = open('m1.1')
    await sender(port, transfer, key)
    await until('the source to be let in', () => entries() === 1)
    const stop = new AbortController()
    stop.abort()
    // Its hypervisor takes an image only now.
    const receiving = failureOf(arrival.receive(hypervisor().stream, stop.signal))
    const { type } = await within(systemClock, 10_000, 'the end of the copy', receiving)
    assert.is(type, 'StreamCut')
  }))

test('a source that is told to stop does not wait for a target that takes nothing', () =>
  withPort(async ({ port, open }) => {
    const { transfer, key } = open('m1.1')
    const stop = new AbortController()
    const ticket = { transfer, key, address: port.address, version: 1 }
    const source = await openSender(ticket, {
      wire: tlsWire,
      clock: systemClock,
      paces: [],
      signal: stop.signal,
    })
    // Nobody reads at the other end: what is sent fills the network's buffers, and then stands still.
    const sending = failureOf(source.send(imageOf(randomBytes(64_000_000))))
    stop.abort()
    assert.is((await sending).type, 'StreamBroken')
  }))

test('a hypervisor that stops taking the image fails the transfer', () =>
  withPort(async ({ port, open }) => {
    const { transfer, key, arrival } = open('m1.1')
    const broken = new Writable({ write: (_chunk, _, done) => done(new Error('EPIPE')) })
    const receiving = arrival.receive(broken, never)
    const source = await sender(port, transfer, key)
    source.send(imageOf(randomBytes(1000))).catch(() => {})
    assert.is((await failureOf(receiving)).type, 'HypervisorFailed')
  }))

test('a hypervisor that has all it needs may hang up before the end frame comes', () =>
  withPort(async ({ port, open }) => {
    const { transfer, key, arrival } = open('m1.1')
    const target = hypervisor()
    const receiving = arrival.receive(target.stream, never)
    const source = await sender(port, transfer, key)
    await source.send(imageOf(randomBytes(1000)))
    await until('all of it to arrive', () => target.image().length === 1000)
    target.stream.destroy()
    await source.finish()
    assert.is((await receiving).bytes, 1000)
  }))

test('an address where nobody listens is a failure that names it', async () => {
  const server = createServer()
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  const address = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  const ticket = {
    transfer: 't',
    key: randomBytes(32),
    address: { host: '127.0.0.1', port: address.port },
    version: 1,
  }
  const failure = await failureOf(
    openSender(ticket, { wire: tlsWire, clock: systemClock, paces: [], signal: never }),
  )
  assert.equal(failure, {
    type: 'ConnectFailed',
    address: `127.0.0.1:${address.port}`,
    code: 'ECONNREFUSED',
  })
})

test('a paced transfer takes its time, until it is told to hurry', () =>
  withPort(async ({ port, open }) => {
    const { transfer, key, arrival } = open('m1.1')
    const receiving = arrival.receive(hypervisor().stream, never)
    const pace = makePace(systemClock, 1_000_000)
    const ticket = { transfer, key, address: port.address, version: 1 }
    const source = await openSender(ticket, {
      wire: tlsWire,
      clock: systemClock,
      paces: [pace],
      signal: never,
    })
    const began = systemClock.elapsed()
    await source.send(imageOf(randomBytes(300_000)))
    const slowMs = systemClock.elapsed() - began
    source.hurry()
    await source.send(imageOf(randomBytes(300_000)))
    const fastMs = systemClock.elapsed() - began - slowMs
    await source.finish()
    await receiving
    assert.ok(slowMs > 200, `${slowMs} ms`)
    assert.ok(fastMs < slowMs, `${fastMs} ms, after ${slowMs} ms`)
  }))

test.run()

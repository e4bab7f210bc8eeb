import { Duplex } from 'node:stream'
import { CopyFailed } from '@ferry/host-agent/driver'
import { kinds } from '@ferry/host-agent/transfer/frames'
import type { Door, Endpoint, Wire } from '@ferry/host-agent/transfer/wire'
import type { Chances } from './chance.ts'
import type { Faults } from './faults.ts'
import type { Life } from './life.ts'
import { never } from './life.ts'
import type { Network } from './network.ts'
import type { Time } from './time.ts'

/** What all machines' wires have in common: the network, and who listens where. */
export type Ether = {
  readonly time: Time
  readonly network: Network
  readonly chances: Chances
  readonly faults: () => Faults
  readonly listeners: Map<string, { readonly life: Life; readonly door: Door }>
  /** Transfers whose end frame has been given to the network: what they carried is complete. */
  readonly completed: Set<string>
}

const CONNECT_MS = 10_000

/** The network that images take, seen from one process: latency, partitions, and streams that are cut, stalled or flipped. */
export function wireOf(ether: Ether, life: Life): Wire {
  const { network, time, listeners } = ether
  const travel = (act: () => void) => void time.after(network.latency(), act)
  return {
    listen: async (at, door) => {
      const name = nameOf(at)
      const listener = { life, door }
      listeners.set(name, listener)
      const close = () => {
        if (listeners.get(name) === listener) listeners.delete(name)
      }
      life.onDeath(close)
      return { port: at.port, close: async () => close() }
    },

    connect: (ticket, signal) => {
      if (life.isDead()) return never()
      const address = nameOf(ticket.address)
      const { transfer, key } = ticket
      const fail = (code: string) => new CopyFailed({ type: 'ConnectFailed', address, code })
      return life.heard(
        new Promise<Duplex>((resolve, reject) => {
          const late = time.after(CONNECT_MS, () => reject(fail('ETIMEDOUT')))
          const settle = (act: () => void) => {
            late.cancel()
            act()
          }
          signal.addEventListener('abort', () => settle(() => reject(fail('ABORTED'))), {
            once: true,
          })
          travel(() => {
            const listener = listeners.get(address)
            const there = ticket.address.host
            if (!network.reaches(life.node, there) || !network.reaches(there, life.node)) return
            if (listener === undefined)
              return travel(() => settle(() => reject(fail('ECONNREFUSED'))))
            const [near, far] = pipe(ether, life, listener.life, { isFramed: true })
            near.onWrite = (frame) => {
              if (frame.readUInt32BE(0) === kinds.end) ether.completed.add(transfer)
            }
            far.offer = {
              key,
              answer: (isRight) =>
                travel(() =>
                  settle(() => {
                    if (isRight) return resolve(near)
                    return reject(
                      new CopyFailed({ type: 'TransferRejected', transfer, code: 'EKEY' }),
                    )
                  }),
                ),
            }
            far.once('close', () => far.offer?.answer(false))
            listener.life.whenAwake(() =>
              listener.door.visit({ transfer, remoteAddress: life.node, stream: far }),
            )
          })
        }),
      )
    },

    admit: async ({ stream }, key) => {
      const offer = stream instanceof End ? stream.offer : undefined
      if (offer === undefined) return { why: 'NotFerry' }
      const isRight = Buffer.from(offer.key).equals(Buffer.from(key))
      offer.answer(isRight)
      return isRight ? stream : { why: 'WrongKey' }
    },
  }
}

const nameOf = ({ host, port }: Endpoint) => `${host}:${port}`

type Offer = { readonly key: Uint8Array; readonly answer: (isRight: boolean) => void }

/** One end of a stream. */
class End extends Duplex {
  offer: Offer | undefined
  onWrite: ((piece: Buffer) => void) | undefined
  readonly #send: (piece: Buffer | null, done: () => void) => void
  readonly #gone: () => void
  #writing: ((error?: Error) => void) | undefined

  constructor(send: (piece: Buffer | null, done: () => void) => void, gone: () => void) {
    super({ allowHalfOpen: true })
    this.#send = send
    this.#gone = gone
    this.on('error', () => {})
  }

  override _read(): void {}

  override _write(piece: Buffer, _: BufferEncoding, done: (error?: Error) => void): void {
    this.#writing = done
    this.onWrite?.(piece)
    // The sender uses its buffer again as soon as it is told that this one is written.
    this.#send(Buffer.from(piece), () => this.#written())
  }

  /** As a socket does: what was being written when it was destroyed was not written. */
  #written(error?: Error): void {
    const done = this.#writing
    this.#writing = undefined
    done?.(error)
  }

  override _final(done: () => void): void {
    this.#send(null, done)
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#gone()
    this.#written(error ?? new Error('ECANCELED'))
    done(error)
  }
}

/** An end frame is cut off so much oftener than any other piece: whether it has come decides most. */
const END_CUT = 8

/** @param isFramed it is Ferry's own stream, whose damages are found. */
export function pipe(
  ether: Ether,
  one: Life,
  other: Life,
  { isFramed }: { readonly isFramed: boolean },
): [End, End] {
  const { time, network, chances, faults } = ether
  const chance = chances(`streams from ${one.node}`)
  let isStalled = false

  const half =
    (from: Life, to: Life, peer: () => End) => (piece: Buffer | null, done: () => void) => {
      const { streamCut, streamStall, streamFlip } = faults()
      if (chance.happens(streamStall)) isStalled = true
      if (isFramed && piece !== null && chance.happens(streamFlip)) {
        const at = chance.whole(piece.length)
        piece.writeUInt8(piece.readUInt8(at) ^ (1 << chance.whole(8)), at)
      }
      const isEnd = isFramed && piece !== null && piece.readUInt32BE(0) === kinds.end
      if (chance.happens(isEnd ? END_CUT * streamCut : streamCut)) return void time.after(0, cut)
      // Nothing comes through a partition, and nobody is told.
      if (isStalled || !network.reaches(from.node, to.node)) return
      time.after(network.latency(), () =>
        to.whenAwake(() => {
          if (peer().destroyed) return
          peer().push(piece)
          from.whenAwake(done)
        }),
      )
    }
  const gone = (from: Life, to: Life, peer: () => End) => () => {
    if (isStalled || !network.reaches(from.node, to.node)) return
    time.after(network.latency(), () => to.whenAwake(() => peer().destroy(new Error('ECONNRESET'))))
  }
  const near: End = new End(
    half(one, other, () => far),
    gone(one, other, () => far),
  )
  const far: End = new End(
    half(other, one, () => near),
    gone(other, one, () => near),
  )
  const cut = () => {
    for (const end of [near, far]) end.destroy(new Error('ECONNRESET'))
  }
  one.onDeath(() => near.destroy())
  other.onDeath(() => far.destroy())
  return [near, far]
}

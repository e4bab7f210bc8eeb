import type { Duplex, Writable } from 'node:stream'
import type { Clock } from '@ferry/events/clock'
import { CopyFailed } from '../driver.ts'
import { receiveImage } from './receive.ts'
import type { Arrived, SaidWhole } from './receive.ts'
import type { Intruder, Visit, Wire } from './wire.ts'

/** Where one image arrives: the process that waits for it, and nobody else, has the key. */
export type Arrival = {
  /** Looks at somebody who came for this transfer. The first one that has the key is let in. */
  readonly visit: (visit: Visit) => void
  /**
   * Waits for the visitor, until the transfer expires, and hands the image to the hypervisor.
   *
   * @throws {CopyFailed} which says what was wrong, or that nobody came.
   */
  readonly receive: (
    hypervisor: Writable,
    signal: AbortSignal,
    isSaidWhole?: SaidWhole,
  ) => Promise<Arrived>
  /** Nobody is waited for any more; a visitor that was let in is sent away. */
  readonly close: () => void
}

export function openArrival(
  expected: {
    readonly transfer: string
    readonly version: number
    readonly key: Uint8Array
    /** By this host's clock. */
    readonly expiresAt: number
  },
  edges: {
    readonly wire: Wire
    readonly clock: Clock
    /** Somebody has proved that it has the key. */
    readonly used: () => void
    readonly refused: (intruder: Intruder) => void
  },
): Arrival {
  const { transfer, key, version, expiresAt } = expected
  const { wire, clock, used, refused } = edges
  let arrive: (stream: Duplex) => void = () => {}
  const arrived = new Promise<Duplex>((resolve) => {
    arrive = resolve
  })
  let isTaken = false

  const admit = async (visit: Visit) => {
    const admitted = isTaken ? { why: 'UsedTransfer' as const } : await wire.admit(visit, key)
    const { remoteAddress } = visit
    if ('why' in admitted) {
      visit.stream.destroy()
      if (admitted.why !== 'Left') refused({ why: admitted.why, transfer, remoteAddress })
    } else if (isTaken) {
      // Two came with the right key at the same moment: the first one has it.
      admitted.destroy()
      refused({ why: 'UsedTransfer', transfer, remoteAddress })
    } else {
      isTaken = true
      used()
      arrive(admitted)
    }
  }

  return {
    visit: (visit) => void admit(visit),
    close: () => {
      isTaken = true
      void arrived.then((stream) => stream.destroy())
    },
    receive: async (hypervisor, signal, isSaidWhole) => {
      const waiting = new AbortController()
      const expiry = clock.sleep(
        Math.max(0, expiresAt - clock.now()),
        AbortSignal.any([signal, waiting.signal]),
      )
      const stream = await Promise.race([arrived, expiry.then(() => undefined)]).finally(() => {
        waiting.abort()
        expiry.catch(() => {})
      })
      if (stream === undefined) {
        isTaken = true
        throw new CopyFailed({ type: 'TransferExpired', transfer })
      }
      const stop = () => stream.destroy()
      signal.addEventListener('abort', stop, { once: true })
      // The hypervisor may have taken its time, and meanwhile somebody came, and then nobody was wanted any more.
      if (signal.aborted) stop()
      try {
        return await receiveImage(stream, hypervisor, { transfer, version, key }, isSaidWhole)
      } finally {
        signal.removeEventListener('abort', stop)
      }
    },
  }
}

import type { Clock } from '@ferry/events/clock'
import type { Endpoint, Intruder, Visit, Wire } from './wire.ts'

/**
 * The one port of a host on which images arrive. A visitor names a transfer; each transfer works once, until it expires.
 * Who may come is known here; whether the visitor has the key, whoever waits for it finds out.
 */
export type TransferPort = {
  readonly address: Endpoint
  /** Somebody may come for this transfer. Another one for the same attempt makes the one before worthless. */
  readonly expect: (transfer: string, attempt: string, expiresAt: number) => void
  /** Shows every visitor of this transfer to `take`; those that have come already, at once. */
  readonly receive: (transfer: string, take: (visit: Visit) => void) => void
  /** One has proved that it has the key: nobody else may come. */
  readonly used: (transfer: string) => void
  /** No transfer of this attempt is worth anything from now on. */
  readonly forget: (attempt: string) => void
  readonly refused: (intruder: Intruder) => void
  readonly close: () => Promise<void>
}

/** What whoever waits for an image has to do with the port. */
export type Doorkeeper = Pick<TransferPort, 'expect' | 'receive' | 'used' | 'forget' | 'refused'>

export type PortOptions = {
  readonly wire: Wire
  readonly listen: Endpoint
  /** What the other hosts call this port; absent: where it listens. */
  readonly address?: Endpoint
  readonly clock: Clock
  readonly refused: (intruder: Intruder) => void
  /**
   * How long after the opening visitors for unknown transfers may wait to become known: the agent before knew them, and
   * this one learns of them from the log. Absent: nobody waits.
   */
  readonly unknownWaitMs?: number
}

/** Ids are remembered for this long past their end, so that a refusal can say what was wrong with one. */
const REMEMBERED = 1000
/** Who comes before somebody waits for it waits here; more than this are not let in. */
const MOST_WAITING = 4

type Slot = {
  readonly attempt: string
  readonly expiresAt: number
  readonly waiting: Visit[]
  take?: (visit: Visit) => void
  isUsed: boolean
  isForgotten: boolean
}

export async function openPort(options: PortOptions): Promise<TransferPort> {
  const { wire, listen, clock, refused, unknownWaitMs = 0 } = options
  const slots = new Map<string, Slot>()
  /** With how to stop waiting. */
  const early = new Map<Visit, () => void>()
  const openedAt = clock.elapsed()

  const whyNot = (slot: Slot | undefined): Intruder['why'] | undefined => {
    if (slot === undefined || slot.isForgotten) return 'UnknownTransfer'
    if (slot.isUsed) return 'UsedTransfer'
    return clock.now() > slot.expiresAt ? 'ExpiredTransfer' : undefined
  }
  const turnAway = (why: Intruder['why'], { transfer, remoteAddress, stream }: Visit) => {
    refused({ why, transfer, remoteAddress })
    stream.destroy()
  }
  const visit = (visitor: Visit) => {
    const slot = slots.get(visitor.transfer)
    const why = whyNot(slot)
    const earlyForMs = openedAt + unknownWaitMs - clock.elapsed()
    if (slot === undefined && earlyForMs > 0 && early.size < MOST_WAITING)
      return waitEarly(visitor, earlyForMs)
    if (slot === undefined || why !== undefined) return turnAway(why ?? 'UnknownTransfer', visitor)
    if (slot.take !== undefined) return slot.take(visitor)
    if (slot.waiting.length >= MOST_WAITING) return turnAway('UsedTransfer', visitor)
    slot.waiting.push(visitor)
  }
  const waitEarly = (visitor: Visit, forMs: number) => {
    const prevent = clock.after(forMs, () => {
      early.delete(visitor)
      turnAway('UnknownTransfer', visitor)
    })
    early.set(visitor, prevent)
  }
  /** Those who came early for this transfer, or all of them. */
  const takeEarly = (transfer?: string): Visit[] => {
    const taken = [...early].filter(
      ([visitor]) => transfer === undefined || visitor.transfer === transfer,
    )
    return taken.map(([visitor, prevent]) => {
      prevent()
      early.delete(visitor)
      return visitor
    })
  }
  const forget = (attempt: string) => {
    for (const slot of slots.values()) {
      if (slot.attempt !== attempt) continue
      slot.isForgotten = true
      for (const { stream } of slot.waiting.splice(0)) stream.destroy()
    }
  }

  const listening = await wire.listen(listen, {
    visit,
    nonsense: (why, remoteAddress) => refused({ why, remoteAddress }),
  })
  return {
    address: options.address ?? { host: listen.host, port: listening.port },
    expect: (transfer, attempt, expiresAt) => {
      if (slots.get(transfer)?.attempt === attempt) return
      forget(attempt)
      const waiting = takeEarly(transfer)
      slots.set(transfer, { attempt, expiresAt, waiting, isUsed: false, isForgotten: false })
      for (const old of slots.keys()) {
        if (slots.size <= REMEMBERED) break
        slots.delete(old)
      }
    },
    receive: (transfer, take) => {
      const slot = slots.get(transfer)
      if (slot === undefined) return
      slot.take = take
      slot.waiting.splice(0).forEach(take)
    },
    used: (transfer) => {
      const slot = slots.get(transfer)
      if (slot !== undefined) slot.isUsed = true
    },
    forget,
    refused,
    close: async () => {
      for (const { stream } of takeEarly()) stream.destroy()
      for (const { attempt } of slots.values()) forget(attempt)
      await listening.close()
    },
  }
}

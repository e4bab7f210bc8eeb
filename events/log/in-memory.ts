import { encode } from '@ferry/schemas/cloud-event'
import type { Clock } from '../clock.ts'
import { readEntry } from '../entry.ts'
import type { Entry } from '../entry.ts'
import { Conflict, placeOf } from '../log.ts'
import type { Delivery, Log } from '../log.ts'
import { Queue } from '../queue.ts'

/**
 * A log without a server: the same promises, in one process. Messages go through their wire form, so that what
 * tests see is what JetStream would have given.
 */
export type MemoryLog = Log & {
  /** Puts raw text on a subject, as a stranger with a connection could. */
  readonly inject: (subject: string, body: string) => void
  /** Loses everything behind a position, and comes back: a server whose store was restored from an old copy. */
  readonly putBack: (position: number) => void
}

export function memoryLog(clock: Clock): MemoryLog {
  const entries: Entry[] = []
  const positions = new Map<string, number>()
  const followers = new Set<(entry: Entry) => void>()
  const returns = new Set<() => void>()
  const onReturn = (act: () => void) => {
    returns.add(act)
    return () => void returns.delete(act)
  }
  const receivers = new Map<string, Receiver>()

  const store = (subject: string, body: string): Entry => {
    const entry = readEntry({ position: entries.length + 1, storedAt: clock.now(), subject, body })
    entries.push(entry)
    for (const tell of followers) tell(entry)
    return entry
  }
  const lastOn = (subject: string) => entries.findLast((entry) => entry.subject === subject)

  async function* follow(range: { after: number; subject?: string; signal: AbortSignal }) {
    const queue = new Queue<Entry>()
    const wanted = matching(range.subject)
    let position = range.after
    const tell = (entry: Entry) => {
      // Who follows goes on behind what it was given last, as a consumer of a server does.
      if (entry.position <= position) return
      position = entry.position
      if (wanted(entry.subject)) queue.put(entry)
    }
    const stop = () => queue.close()
    entries.slice(range.after).forEach(tell)
    followers.add(tell)
    range.signal.addEventListener('abort', stop, { once: true })
    if (range.signal.aborted) stop()
    try {
      yield* queue
    } finally {
      followers.delete(tell)
      range.signal.removeEventListener('abort', stop)
    }
  }

  return {
    append: async (event, { expect } = {}) => {
      const subject = placeOf(event)
      const known = positions.get(event.id)
      if (known !== undefined) return { position: known }
      if (expect !== undefined && (lastOn(subject)?.position ?? 0) !== expect)
        throw new Conflict(subject, expect)
      const { position } = store(subject, encode(event))
      positions.set(event.id, position)
      return { position }
    },
    next: async (subject, after) => entries.slice(after).find((entry) => entry.subject === subject),
    last: async (subject) => lastOn(subject),
    head: async () => entries.length,
    async *read({ after, subject }) {
      const wanted = matching(subject)
      yield* entries.slice(after).filter((entry) => wanted(entry.subject))
    },
    follow,
    async *deliveries({ durable, subject, ackWaitMs, signal }) {
      const receiver = receivers.get(durable) ?? { acked: new Set() }
      receivers.set(durable, receiver)
      const queue = new Queue<Delivery>()
      const stop = new AbortController()
      const offer = (entry: Entry) =>
        deliver(entry, { clock, queue, receiver, ackWaitMs, signal: stop.signal })
      const end = () => queue.close()
      signal.addEventListener('abort', end, { once: true })
      if (signal.aborted) end()

      let feed = new AbortController()
      const feeding = (async () => {
        while (!stop.signal.aborted) {
          feed = new AbortController()
          const either = AbortSignal.any([stop.signal, feed.signal])
          for await (const entry of follow({ after: 0, subject, signal: either }))
            if (!receiver.acked.has(entry.position)) offer(entry)
        }
      })()
      const forget = onReturn(() => feed.abort())
      try {
        yield* queue
      } finally {
        forget()
        stop.abort()
        signal.removeEventListener('abort', end)
        await feeding
      }
    },
    silentForMs: () => 0,
    onReturn,
    inject: (subject, body) => void store(subject, body),
    putBack: (position) => {
      entries.length = position
      for (const [id, at] of positions) if (at > position) positions.delete(id)
      // What was acknowledged is forgotten as well: the copy was taken before.
      for (const { acked } of receivers.values()) acked.clear()
      for (const act of returns) act()
    },
  }
}

type Receiver = { readonly acked: Set<number> }

type Delivering = {
  clock: Clock
  queue: Queue<Delivery>
  receiver: Receiver
  ackWaitMs: number
  signal: AbortSignal
}

/** Puts an entry into the receiver's queue, and again each time that nothing was heard of it in time. */
function deliver(entry: Entry, delivering: Delivering): void {
  const { clock, queue, receiver, ackWaitMs, signal } = delivering
  let timer = new AbortController()
  const redeliverIn = (ms: number) => {
    timer.abort()
    const mine = (timer = new AbortController())
    clock.sleep(ms, AbortSignal.any([mine.signal, signal])).then(
      () => deliver(entry, delivering),
      () => {},
    )
  }
  queue.put({
    entry,
    done: () => {
      receiver.acked.add(entry.position)
      timer.abort()
    },
    working: () => redeliverIn(ackWaitMs),
    again: redeliverIn,
  })
  redeliverIn(ackWaitMs)
}

/** NATS' own rule: `*` is one token, `>` is all that follow. */
export function matching(filter = '>'): (subject: string) => boolean {
  if (!/[*>]/.test(filter)) return (subject) => subject === filter
  const pattern = filter
    .replaceAll(/[^\w*>]/g, String.raw`\$&`)
    .replaceAll('*', '[^.]+')
    .replace(/>$/, '.+')
  const whole = new RegExp(`^${pattern}$`)
  return (subject) => whole.test(subject)
}

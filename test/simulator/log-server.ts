import { readEntry } from '@ferry/events/entry'
import type { Entry } from '@ferry/events/entry'
import { Conflict } from '@ferry/events/log'
import type { Stored } from '@ferry/events/log'
import { matching } from '@ferry/events/log/in-memory'
import type { Register } from '@ferry/events/registers'
import type { Chance } from './chance.ts'
import type { Faults } from './faults.ts'
import type { Time } from './time.ts'

/** What a NATS server keeps and does, as far as Ferry uses it: the stream, its consumers' state, and the registers. */
export type LogServer = {
  readonly entries: readonly Entry[]
  readonly bodies: readonly string[]
  readonly isUp: () => boolean
  /** Ends it for so long, and with it all connections. */
  readonly stop: (ms: number) => void
  /** For so long it has no room, and says so. */
  readonly fill: (ms: number) => void
  readonly hasRoom: () => boolean
  /** How often it was stopped: a connection lives between two stops. */
  readonly stops: () => number
  readonly onUp: (tell: () => void) => () => void
  /**
   * Makes it what it was before the messages behind a position came: they are gone, and whatever was acknowledged or
   * written into a register since. While it is stopped.
   */
  readonly putBack: (position: number) => void
  readonly onLost: (tell: () => void) => () => void
  /** How often it has lost something. */
  readonly losses: () => number
  /** Whatever has stood on a subject, in the order in which it was stored. */
  readonly everOn: (subject: string) => readonly Remembered[]
  /** The same of all subjects. */
  readonly ever: readonly Remembered[]
  readonly append: (message: Message) => Stored
  readonly next: (subject: string, after: number) => Entry | undefined
  readonly last: (subject: string) => Entry | undefined
  readonly behind: (after: number, subject: string | undefined) => Entry[]
  readonly onStored: (tell: (entry: Entry) => void) => () => void
  readonly registers: Map<string, Register>
  readonly setRegister: (key: string, value: string) => number
  readonly onRegister: (tell: () => void) => () => void
  /** Positions that a durable receiver is done with, and since when. */
  readonly acked: (durable: string) => Map<number, number>
}

/** An entry, and for how many of the log's losses it was there: from that loss on, and no more from this one on. */
export type Remembered = {
  readonly entry: Entry
  readonly cameAfter: number
  wentWith: number | undefined
}

/** What JetStream answers when its disk is full. It may pass, so whoever hears it asks again. */
class NoRoom extends Error {
  override readonly name = 'NoRoom'

  constructor() {
    super('insufficient storage resources available')
  }
}

export type Message = {
  readonly subject: string
  readonly body: string
  readonly id?: string
  readonly expect?: number
}

/** How old what a server does not see yet may be when it lets a second guarded writer through. */
const MOST_LEAK_MS = 5000

export function logServer(time: Time, chance: Chance, faults: () => Faults): LogServer {
  const entries: Entry[] = []
  const bodies: string[] = []
  const bySubject = new Map<string, Entry[]>()
  const ids = new Map<string, number>()
  const registers = new Map<string, Register>()
  const receivers = new Map<string, Map<number, number>>()
  const tellStored = new Set<(entry: Entry) => void>()
  const tellRegister = new Set<() => void>()
  const tellUp = new Set<() => void>()
  const tellLost = new Set<() => void>()
  const ever: Remembered[] = []
  const everBySubject = new Map<string, Remembered[]>()
  /** What each write into a register wrote over. */
  const writes: { readonly key: string; readonly at: number; readonly before?: Register }[] = []
  let downUntil = 0
  let fullUntil = 0
  let stops = 0
  let losses = 0
  let revision = 0

  const hasRoom = () => fullUntil <= time.now()
  const on = (subject: string) => bySubject.get(subject) ?? []
  const store = (subject: string, body: string): Entry => {
    const entry = readEntry({ position: entries.length + 1, storedAt: time.now(), subject, body })
    entries.push(entry)
    bodies.push(body)
    const before = bySubject.get(subject)
    if (before === undefined) bySubject.set(subject, [entry])
    else before.push(entry)
    const remembered = { entry, cameAfter: losses, wentWith: undefined }
    ever.push(remembered)
    const known = everBySubject.get(subject)
    if (known === undefined) everBySubject.set(subject, [remembered])
    else known.push(remembered)
    for (const tell of tellStored) tell(entry)
    return entry
  }
  const endsAt = (subject: string): number => {
    const isLeaky = chance.happens(faults().leakyGuard)
    const seenUntil = time.now() - (isLeaky ? chance.between(1, MOST_LEAK_MS) : 0)
    return on(subject).findLast(({ storedAt }) => storedAt <= seenUntil)?.position ?? 0
  }
  const listening =
    <T>(listeners: Set<T>) =>
    (tell: T) => {
      listeners.add(tell)
      return () => void listeners.delete(tell)
    }

  return {
    entries,
    bodies,
    isUp: () => downUntil <= time.now(),
    stop: (ms) => {
      stops += 1
      const mine = stops
      downUntil = time.now() + ms
      time.after(ms, () => {
        if (stops === mine) for (const tell of tellUp) tell()
      })
    },
    fill: (ms) => {
      fullUntil = time.now() + ms
    },
    hasRoom,
    stops: () => stops,
    onUp: listening(tellUp),
    putBack: (position) => {
      const [first] = entries.slice(position)
      if (first === undefined) return
      losses += 1
      entries.length = position
      bodies.length = position
      for (const known of bySubject.values())
        while ((known.at(-1)?.position ?? 0) > position) known.pop()
      for (const [id, at] of ids) if (at > position) ids.delete(id)
      for (const each of ever) if (each.entry.position > position) each.wentWith ??= losses
      for (const acked of receivers.values())
        for (const [at, since] of acked)
          if (at > position || since >= first.storedAt) acked.delete(at)
      while ((writes.at(-1)?.at ?? 0) >= first.storedAt) {
        const { key = '', before } = writes.pop() ?? {}
        if (before === undefined) registers.delete(key)
        else registers.set(key, before)
        revision -= 1
      }
      for (const tell of tellLost) tell()
    },
    onLost: listening(tellLost),
    losses: () => losses,
    everOn: (subject) => everBySubject.get(subject) ?? [],
    ever,
    append: ({ subject, body, id, expect }) => {
      const known = id === undefined ? undefined : ids.get(id)
      if (!hasRoom()) throw new NoRoom()
      if (known !== undefined && !chance.happens(faults().forgottenId)) return { position: known }
      if (expect !== undefined && endsAt(subject) !== expect) throw new Conflict(subject, expect)
      const { position } = store(subject, body)
      if (id !== undefined) ids.set(id, position)
      return { position }
    },
    next: (subject, after) => on(subject).find(({ position }) => position > after),
    last: (subject) => on(subject).at(-1),
    behind: (after, subject) => {
      const known = subject === undefined ? entries : bySubject.get(subject)
      if (known !== undefined) return known.filter(({ position }) => position > after)
      const isWanted = matching(subject)
      return entries.slice(after).filter((entry) => isWanted(entry.subject))
    },
    onStored: listening(tellStored),
    registers,
    setRegister: (key, value) => {
      if (!hasRoom()) throw new NoRoom()
      revision += 1
      const before = registers.get(key)
      writes.push({ key, at: time.now(), ...(before === undefined ? {} : { before }) })
      registers.set(key, { key, value, revision, writtenAt: time.now() })
      for (const tell of tellRegister) tell()
      return revision
    },
    onRegister: listening(tellRegister),
    acked: (durable) => {
      const known = receivers.get(durable) ?? new Map<number, number>()
      receivers.set(durable, known)
      return known
    },
  }
}

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
  readonly stop: (ms: number) => void
  readonly append: (message: Message) => Stored
  readonly next: (subject: string, after: number) => Entry | undefined
  readonly last: (subject: string) => Entry | undefined
  readonly behind: (after: number, subject: string | undefined) => Entry[]
  readonly onStored: (tell: (entry: Entry) => void) => () => void
  readonly registers: Map<string, Register>
  readonly setRegister: (key: string, value: string) => number
  readonly onRegister: (tell: () => void) => () => void
  /** Positions that a durable receiver is done with. */
  readonly acked: (durable: string) => Set<number>
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
  const receivers = new Map<string, Set<number>>()
  const tellStored = new Set<(entry: Entry) => void>()
  const tellRegister = new Set<() => void>()
  let downUntil = 0
  let revision = 0

  const on = (subject: string) => bySubject.get(subject) ?? []
  const store = (subject: string, body: string): Entry => {
    const entry = readEntry({ position: entries.length + 1, storedAt: time.now(), subject, body })
    entries.push(entry)
    bodies.push(body)
    const before = bySubject.get(subject)
    if (before === undefined) bySubject.set(subject, [entry])
    else before.push(entry)
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
      downUntil = time.now() + ms
    },
    append: ({ subject, body, id, expect }) => {
      const known = id === undefined ? undefined : ids.get(id)
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
      revision += 1
      registers.set(key, { key, value, revision, writtenAt: time.now() })
      for (const tell of tellRegister) tell()
      return revision
    },
    onRegister: listening(tellRegister),
    acked: (durable) => {
      const known = receivers.get(durable) ?? new Set<number>()
      receivers.set(durable, known)
      return known
    },
  }
}

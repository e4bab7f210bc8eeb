import type { Event, EventOfKind } from '@ferry/schemas/event'
import { isEvent, mustBeKnown } from './entry.ts'
import type { Entry, EventEntry } from './entry.ts'
import { subjectOf } from './subjects.ts'

/**
 * The log, as everybody else sees it. Two keep these promises, under one contract suite (`test/contract/log.ts`):
 * JetStream for real, and memory for tests.
 *
 * Promises:
 * - An event whose `append` resolved stands in the log once, however often it was sent.
 * - `follow` gives every entry once, in order, from where it was told to start, over any number of disconnections (I12).
 * - What nobody `done` is delivered again.
 */
export interface Log {
  /**
   * Appends an event on its own subject. Sent again with the same id until the log has answered.
   *
   * @param expect the last position on the subject, if the append must fail when something else stands behind it.
   * @throws {Conflict} when something does. It is ambiguous: an earlier send of the same event may be that something.
   * @throws {LogUnavailable} when there was no answer in time. Ambiguous as well.
   */
  append(event: Event, options?: AppendOptions): Promise<Stored>

  /** The first entry on a subject behind a position. */
  next(subject: string, after: number, options?: Patience): Promise<Entry | undefined>

  /** The last entry on a subject. */
  last(subject: string, options?: Patience): Promise<Entry | undefined>

  /** The position of the last entry of all. */
  head(options?: Patience): Promise<number>

  /**
   * All entries behind a position, up to the head as it was at the call. `subject` may have wildcards. A log that falls
   * silent is waited for as long as `patienceMs` says: for ever, where nothing is said. It ends when all of them were
   * given, or throws.
   *
   * @throws {LogUnavailable} behind that, and when the connection is closed before.
   */
  read(range: Patience & { after: number; subject?: string }): AsyncIterable<Entry>

  /** All entries behind a position, for ever, or until the signal; it rides out disconnections by itself. */
  follow(range: { after: number; subject?: string; signal: AbortSignal }): AsyncIterable<Entry>

  /** Entries for one receiver that says when it is done with each: a host's commands. */
  deliveries(receiver: {
    durable: string
    subject: string
    /** Delivered again when nothing was heard of it for so long. */
    ackWaitMs: number
    signal: AbortSignal
  }): AsyncIterable<Delivery>

  /** How long ago the log last answered anything, in milliseconds. */
  silentForMs(): number

  /** Calls back whenever the log was away and has come back: it may be another one. @returns how to stop that. */
  onReturn(act: () => void): () => void
}

export type AppendOptions = Patience & { readonly expect?: number }

/** How long to go on asking a log that is silent before `LogUnavailable`. */
export type Patience = { readonly patienceMs?: number; readonly signal?: AbortSignal }

export type Stored = { readonly position: number }

export type Delivery = {
  readonly entry: Entry
  readonly done: () => void
  /** Still at it: do not deliver it to anybody yet. */
  readonly working: () => void
  readonly again: (delayMs: number) => void
}

export class Conflict extends Error {
  override readonly name = 'Conflict'
  readonly subject: string

  constructor(subject: string, expect: number, options?: ErrorOptions) {
    super(`${subject} does not end at ${expect}: something stands behind it`, options)
    this.subject = subject
  }
}

export class LogUnavailable extends Error {
  override readonly name = 'LogUnavailable'

  constructor(what: string, afterMs: number, options?: ErrorOptions) {
    super(`the log did not answer for ${Math.round(afterMs)} ms: ${what}`, options)
  }
}

/** An event that no writer may append, or that has no subject: a bug of the caller. */
export class Unplaced extends Error {
  override readonly name = 'Unplaced'

  constructor(event: Event) {
    super(`${event.type} cannot be said by ${JSON.stringify(event.writer)}`)
  }
}

export function placeOf(event: Event): string {
  const subject = subjectOf(event)
  if (subject === undefined) throw new Unplaced(event)
  return subject
}

/** Decisions, admissions, verdicts and recoveries: where two may write at once, and order says who won. */
export type Guarded = EventOfKind<'decision' | 'admission' | 'verdict' | 'recovery'>

/** What became of an attempt to be first: the winner is what stands in the log, whoever wrote it. */
export type Contest = { readonly won: boolean; readonly winner: EventEntry }

/**
 * Appends a guarded event and reads back who won. Nobody acts on such an event before this has said so (I3).
 *
 * The rule, the same for every subject and every reader: the first event behind position `after` whose own
 * `after` is that position is valid; any other is void. The server is told what we expect as well, but only to
 * save work: clustered servers before 2.9.21 let two writers through, and an answer that got lost says nothing.
 *
 * @throws {LogUnavailable} when that could not be found out in time: the event may stand in the log or not.
 * @throws {NewerLog} when something stands there that this release cannot judge.
 */
export async function contest(log: Log, event: Guarded, patience: Patience = {}): Promise<Contest> {
  const subject = placeOf(event)
  const { after } = event.data
  let seen = after
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    const appending = log.append(event, { ...patience, expect: seen })
    // Whatever the answer is, what stands in the log decides. It is read at the same time: a paused guest may be waiting.
    const [early] = await Promise.all([
      log.next(subject, seen, patience),
      appending.catch((error: unknown) => {
        if (!(error instanceof Conflict)) throw error
      }),
    ])
    let entry = early ?? (await log.next(subject, seen, patience))
    while (entry !== undefined) {
      if (isValidAfter(entry, after))
        return { won: entry.message.event.id === event.id, winner: entry }
      mustBeKnown(entry)
      seen = entry.position
      entry = await log.next(subject, seen, patience)
    }
    // Only void messages stand there, so the server turned ours away for their sake: try again behind them.
    patience.signal?.throwIfAborted()
  }
  throw new LogUnavailable(`${subject} does not show what was appended to it`, 0)
}

/** Each try steps over all the junk that stands there; only a log that contradicts itself needs more. */
const MOST_TRIES = 20

/** The validity rule for one entry, given the head of its subject. */
export const isValidAfter = (entry: Entry, head: number): entry is EventEntry =>
  isEvent(entry) && 'after' in entry.message.event.data && entry.message.event.data.after === head

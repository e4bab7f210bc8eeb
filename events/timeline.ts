import type { Event } from '@ferry/schemas/event'
import type { DataOf } from '@ferry/schemas/messages'
import type { Cause } from '@ferry/schemas/refusal'
import type { Entry } from './entry.ts'
import { emptyFleet, follow, migrationOf } from './fleet.ts'
import { isCommand } from './migration.ts'
import type { Attempt, Fence, Migration, Place } from './migration.ts'
import { isEnded } from './phases.ts'
import type { PhaseName } from './phases.ts'

/**
 * What happened in one migration, told from the log: every phase with its length, the rounds, the downtime and what it
 * was made of, the event that decided, and what each side said. The same fold that decided then, run again now.
 */
export type Timeline = {
  readonly migration: string
  readonly vm: string
  readonly source: string
  readonly by: string
  readonly requested: Place
  readonly phase: PhaseName
  readonly end?: Migration['end']
  readonly attempts: readonly AttemptTimeline[]
  /** What it has had to keep to, where that was changed on the way. */
  readonly limits: readonly (Place & DataOf<'LimitsSet'>)[]
  /** Messages about it that did not count, and why. */
  readonly voids: readonly {
    readonly position: number
    readonly subject: string
    readonly why: string
  }[]
}

export type AttemptTimeline = {
  readonly number: number
  readonly target?: string
  readonly spans: readonly Span[]
  readonly rounds: readonly (Place & DataOf<'RoundPassed'>)[]
  readonly said: readonly Said[]
  readonly verdict?: {
    readonly type: string
    readonly position: number
    readonly writer: string
    readonly cause?: Cause
  }
  /** What stands in for another verdict behind `Committed`. */
  readonly fence?: Fence
  readonly copy?: {
    readonly bytes: number
    readonly digest: string
    readonly ms: number
    readonly rounds: number
    /** From hypervisor to hypervisor: the digest is that of the source's word. */
    readonly isDirect: boolean
  }
  readonly downtime?: Downtime
}

/** One stay in a phase: by the log server's clock, which orders and times everything alike. */
export type Span = {
  readonly phase: PhaseName
  readonly from: Place
  readonly ms: number
  readonly isOpen: boolean
}

export type Said = Place & {
  readonly who: string
  readonly what: string
  readonly answers?: string
}

/**
 * From the source's pause to the first instruction afterwards, on whichever host that was. Moments of both hosts are
 * put on the log server's clock; `errorMs` is how wrong that may be.
 */
export type Downtime = {
  readonly ms: number
  readonly errorMs: number
  readonly on: 'source' | 'target'
  readonly parts: readonly { readonly what: string; readonly ms: number }[]
}

/** How far a host's clock is from the log server's. */
export type ClockReading = { readonly offsetMs: number; readonly errorMs: number }

/**
 * @param entries everything about the guest since its first decision, and the whole ledger, in order; more does no harm.
 * @returns undefined when the migration is not among them.
 */
export function timelineOf(
  id: string,
  entries: Iterable<Entry>,
  clockOf: (host: string) => ClockReading | undefined,
): Timeline | undefined {
  const fleet = emptyFleet()
  const attempts = new Map<number, Recording>()
  const limits: Timeline['limits'][number][] = []
  const voids: Timeline['voids'][number][] = []
  let last: Migration | undefined
  let lastEntry: Entry | undefined

  for (const entry of entries) {
    const ruling = follow(fleet, entry)
    const { message, position, subject } = entry
    const now = migrationOf(fleet, id)
    const isAbout =
      message.is === 'event' && 'migration' in message.event && message.event.migration === id
    if (isAbout && 'why' in ruling) voids.push({ position, subject, why: ruling.why })
    if (now === undefined) continue
    if (!isEnded(last?.phase ?? 'queued')) lastEntry = entry
    if (isAbout && !('why' in ruling)) {
      record(attempts, last, now, entry)
      const { event } = message
      if (event.type === 'LimitsSet')
        limits.push({ ...event.data, position, storedAt: entry.storedAt })
    }
    last = now
  }
  if (last === undefined || lastEntry === undefined) return undefined
  const untilAt = last.end?.storedAt ?? lastEntry.storedAt
  const { vm, source, by, requested, phase, end } = last
  const recordings = [...attempts.values()]
  const told = recordings.map((recording, nth) => {
    const next = recordings[nth + 1]?.phases[0]?.from.storedAt
    const until = { at: next ?? untilAt, isOpen: next === undefined }
    return tell(recording, source, until, clockOf)
  })
  return {
    migration: id,
    vm,
    source,
    by,
    requested,
    phase,
    ...(end === undefined ? {} : { end }),
    attempts: told,
    limits,
    voids,
  }
}

type Recording = {
  readonly number: number
  attempt: Attempt
  readonly phases: { phase: PhaseName; from: Place }[]
  readonly rounds: (Place & DataOf<'RoundPassed'>)[]
  readonly said: Said[]
}

function record(
  attempts: Map<number, Recording>,
  before: Migration | undefined,
  now: Migration,
  entry: Entry,
): void {
  if (entry.message.is !== 'event') return
  const { event } = entry.message
  const { position, storedAt } = entry
  const { number } = now.attempt
  const recording = attempts.get(number) ?? {
    number,
    attempt: now.attempt,
    phases: [],
    rounds: [],
    said: [],
  }
  attempts.set(number, recording)
  recording.attempt = now.attempt
  if (before?.phase !== now.phase || before.attempt.number !== number)
    recording.phases.push({ phase: now.phase, from: { position, storedAt } })

  const who = 'host' in event.writer ? event.writer.host : event.writer.coordinator
  const answers = event.causationid
  if (event.type === 'RoundPassed') recording.rounds.push({ position, storedAt, ...event.data })
  else
    recording.said.push({
      position,
      storedAt,
      who,
      what: wordFor(event),
      ...(answers === undefined ? {} : { answers }),
    })
}

const wordFor = (event: Event): string =>
  isCommand(event) ? `${event.type} → ${event.data.host}` : event.type

function tell(
  { number, attempt, phases, rounds, said }: Recording,
  source: string,
  until: { readonly at: number; readonly isOpen: boolean },
  clockOf: (host: string) => ClockReading | undefined,
): AttemptTimeline {
  const { slot, verdict, facts, fence } = attempt
  const spans = phases.map(({ phase, from }, nth): Span => {
    const next = phases[nth + 1]
    const isOpen = next === undefined && until.isOpen && !isEnded(phase)
    return {
      phase,
      from,
      ms: Math.max(0, (next?.from.storedAt ?? until.at) - from.storedAt),
      isOpen,
    }
  })
  const downtime = downtimeOf(attempt, source, clockOf)
  const { Performed, TargetPrepared } = facts
  return {
    number,
    ...(slot === undefined ? {} : { target: slot.target }),
    spans: spans.filter(({ phase }) => !isEnded(phase)),
    rounds,
    said,
    ...(verdict === undefined
      ? {}
      : {
          verdict: {
            type: verdict.type,
            position: verdict.position,
            writer: verdict.type === 'Committed' ? verdict.data.target : 'the coordinator',
            ...(verdict.type === 'Cancelled' ? { cause: verdict.data.cause } : {}),
          },
        }),
    ...(fence === undefined ? {} : { fence }),
    ...(Performed === undefined
      ? {}
      : {
          copy: {
            bytes: Performed.data.bytes,
            digest: Performed.data.digest,
            rounds: Performed.data.rounds,
            isDirect: Performed.data.isDirect === true,
            ms: Performed.storedAt - (TargetPrepared?.storedAt ?? Performed.storedAt),
          },
        }),
    ...(downtime === undefined ? {} : { downtime }),
  }
}

function downtimeOf(
  { facts, verdict, slot }: Attempt,
  source: string,
  clockOf: (host: string) => ClockReading | undefined,
): Downtime | undefined {
  const { SourcePaused, Performed, TargetRunning, SourceResumed } = facts
  const pausedAt = Performed?.data.pausedAt ?? SourcePaused?.data.pausedAt
  if (pausedAt === undefined) return undefined

  if (TargetRunning?.data.runningAt !== undefined && slot !== undefined) {
    const unknown: ClockReading = { offsetMs: 0, errorMs: Number.NaN }
    const [atSource, atTarget] = [clockOf(source) ?? unknown, clockOf(slot.target) ?? unknown]
    const committed = verdict?.type === 'Committed' ? verdict.data : undefined
    const target = (moment: number | undefined) =>
      moment === undefined ? undefined : moment - atTarget.offsetMs
    const here = (moment: number | undefined) =>
      moment === undefined ? undefined : moment - atSource.offsetMs
    const { offer } = SourcePaused?.data ?? {}
    const ran: [string, number | undefined] = ['it ran', target(TargetRunning.data.runningAt)]
    const early: (typeof ran)[] = [
      [
        'the verdict stood in the log, before all of it was there',
        target(TargetRunning.data.committedAt),
      ],
      ['it could not run on at the source any more', here(Performed?.data.sentAt)],
      ran,
    ]
    const late: (typeof ran)[] = [
      ['the log was heard, so it went on', here(Performed?.data.gatePassedAt)],
      ['the rest of the memory left the hypervisor', here(Performed?.data.sentAt)],
      ['its end frame was checked at the target', target(committed?.endFrameAt)],
      ['the hypervisor had loaded it', target(committed?.loadedAt)],
      ['the verdict stood in the log', target(TargetRunning.data.committedAt)],
      ran,
    ]
    const ms = TargetRunning.data.runningAt - atTarget.offsetMs - (pausedAt - atSource.offsetMs)
    return {
      ms,
      errorMs: atSource.errorMs + atTarget.errorMs,
      on: 'target',
      parts: partsOf(pausedAt - atSource.offsetMs, offer === undefined ? late : early),
    }
  }
  // Paused and run on at home: one clock, no error.
  return SourceResumed === undefined ||
    !SourceResumed.data.wasPaused ||
    SourceResumed.data.leftPaused === true
    ? undefined
    : { ms: SourceResumed.data.runningAt - pausedAt, errorMs: 0, on: 'source', parts: [] }
}

/** Lengths between moments in their order; one that was not reached, or came before its predecessor, takes no time. */
function partsOf(from: number, steps: readonly [string, number | undefined][]): Downtime['parts'] {
  let before = from
  return steps.flatMap(([what, moment]) => {
    if (moment === undefined) return []
    const ms = Math.max(0, moment - before)
    before = Math.max(before, moment)
    return [{ what, ms }]
  })
}

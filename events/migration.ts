import type { Event, EventOf } from '@ferry/schemas/event'
import type { DataOf } from '@ferry/schemas/messages'
import { limited } from '@ferry/schemas/policy'
import type { Policy } from '@ferry/schemas/policy'
import type { Cause, Failure, HostRefusal } from '@ferry/schemas/refusal'
import { messages } from '@ferry/schemas/messages'
import { isFactName, isSeries, phases, saidBy } from './phases.ts'
import type { Ask, CommandName, FactName, PhaseName, Role, VerdictName } from './phases.ts'

/**
 * The fold of one migration: a phase, and what has been said in the present attempt. `evolve` is one mutating
 * recipe: immer's `produce` calls it live, a plain fold calls it on replay.
 *
 * An event that does not fit is void: it changes nothing, and the reason is returned for whoever shows the log.
 * That includes decisions: two coordinators that were both right when they wrote are told apart by order.
 */
export type Migration = {
  readonly id: string
  readonly vm: string
  readonly source: string
  /** The target that was asked for; absent where the coordinator chooses. */
  readonly wanted?: string
  policy: Policy
  readonly by: string
  readonly requested: Place
  readonly traceparent?: string
  phase: PhaseName
  /** When this phase began. */
  since: Place
  attempt: Attempt
  /** The targets of the attempts before. */
  readonly triedTargets: string[]
  /** When the limits in `policy` were last changed. */
  limitsSet?: Place
  cancelAsked?: Place & { by: string }
  end?: End
}

export type Place = { readonly position: number; readonly storedAt: number }

export type End = Place & {
  readonly cause?: Cause
  readonly guestLost: boolean
  readonly openDuties: readonly { readonly host: string; readonly command: string }[]
}

/** One try, from its slot to its verdict: what was asked, and every fact that answered, by name. */
export type Attempt = {
  readonly number: number
  slot?: { readonly admission: number; readonly target: string }
  asked: { [Key in AskKey]?: Place & { times: number } }
  facts: { [Name in FactName]?: Said<Name> }
  verdict?: Verdict
  /** What must be answered when the target is silent behind `Committed`. */
  doubt?: Place & { readonly question: string }
  /** In vain: somebody tried to turn the target off. */
  fenceFailed?: Place & { readonly times: number; readonly evidence: string }
  fence?: Fence
  /** One of the hosts is of an older release, and was asked for what it does not know. */
  unknown?: Place & { readonly host: string; readonly command: string }
}

/** The target cannot run the guest, whatever the verdict says: somebody made sure of that. */
export type Fence = Place & {
  readonly id: string
  readonly host: string
  readonly by: string
  readonly evidence: string
}

export type Said<Name extends FactName> = Place & {
  readonly id: string
  readonly data: DataOf<Name>
}

export type Verdict = {
  [Name in VerdictName]: Place & {
    readonly type: Name
    readonly id: string
    readonly data: DataOf<Name>
  }
}[VerdictName]

export type AskKey = `${CommandName}.${Role}`
export const askKey = (ask: Pick<Ask, 'command' | 'of'>): AskKey => `${ask.command}.${ask.of}`

/** An event about a migration, in any of the folds. */
export type MigrationEvent = EventOf<
  | CommandName
  | FactName
  | 'CommandUnknown'
  | VerdictName
  | 'Admitted'
  | 'CancelAsked'
  | 'LimitsSet'
  | 'Retried'
  | 'Fenced'
  | 'FenceFailed'
  | 'DoubtRaised'
  | 'Completed'
  | 'Abandoned'
>

export function begin(event: EventOf<'MigrationRequested'>, place: Place): Migration {
  const { data } = event
  return {
    id: event.migration,
    vm: event.vm,
    source: data.source,
    ...(data.target === undefined ? {} : { wanted: data.target }),
    policy: data.policy,
    by: data.by,
    requested: place,
    ...(event.traceparent === undefined ? {} : { traceparent: event.traceparent }),
    phase: 'queued',
    since: place,
    attempt: freshAttempt(event.attempt),
    triedTargets: [],
  }
}

/** @returns why the event is void, or undefined when it counts. */
export function evolve(
  migration: Migration,
  event: MigrationEvent,
  place: Place,
): string | undefined {
  const why = whyVoid(migration, event)
  if (why !== undefined) return why

  const next = isCommand(event) ? undefined : phases[migration.phase].on[event.type]
  if (next !== undefined && next !== migration.phase) {
    migration.phase = next
    migration.since = place
  }
  learn(migration, event, place)
  return undefined
}

/** Ends a migration by a recorded recovery: on whichever host the guest belongs. */
export function endBy(
  migration: Migration,
  host: string | undefined,
  cause: Cause,
  place: Place,
): void {
  migration.phase = host !== undefined && host === targetOf(migration) ? 'completed' : 'abandoned'
  migration.since = place
  migration.end = { ...place, cause, guestLost: host === undefined, openDuties: [] }
}

/** The target of the present attempt; undefined while it waits for a slot. */
export const targetOf = (migration: Migration): string | undefined => migration.attempt.slot?.target

export const hostOf = (migration: Migration, role: Role): string | undefined =>
  role === 'source' ? migration.source : targetOf(migration)

/** What a host said against this attempt, if one did: the reason to give it up. */
export function complaintOf({ source, attempt }: Migration): Cause | undefined {
  const { facts, slot } = attempt
  const target = slot?.target ?? source
  const refused = (host: string, said?: { data: { refusal: HostRefusal } }): Cause | undefined =>
    said && { type: 'Refused', host, refusal: said.data.refusal }
  const failed = (host: string, said?: Place & { data: { failure: Failure } }) =>
    said && {
      at: said.position,
      cause: { type: 'Failed' as const, host, failure: said.data.failure },
    }

  const failures = [failed(source, facts.PerformFailed), failed(target, facts.ReceiveFailed)]
  // One side's failure is the other's consequence; the first to be stored is nearest to the cause, unless one knows who it was.
  const first = failures
    .filter((failure) => failure !== undefined)
    .toSorted(
      (a, b) => Number(isOtherHand(b.cause)) - Number(isOtherHand(a.cause)) || a.at - b.at,
    )[0]
  return (
    refused(source, facts.BeginRefused) ??
    refused(target, facts.PrepareRefused) ??
    first?.cause ??
    notKnown(attempt)
  )
}

const notKnown = ({ unknown }: Attempt): Cause | undefined =>
  unknown && {
    type: 'Refused',
    host: unknown.host,
    refusal: { type: 'CommandUnknown', command: unknown.command },
  }

/** Somebody else paused, ended or moves the guest, and has reasons: it is not fought over. */
export const isOtherHand = (cause: Cause): boolean =>
  cause.type === 'Failed' &&
  cause.failure.type === 'HypervisorFailed' &&
  cause.failure.otherHand === true

function whyVoid(migration: Migration, event: MigrationEvent): string | undefined {
  const { phase, attempt, source } = migration
  if (event.attempt !== attempt.number)
    return `attempt ${event.attempt} is not the present one, ${attempt.number} is`
  if ('admission' in event.data && event.data.admission !== attempt.slot?.admission)
    return `it belongs to the slot of ${event.data.admission}, not to that of this attempt`

  if (event.type === 'CommandUnknown') {
    const { host } = event.data
    const isAsked = host === source || host === attempt.slot?.target
    if (!isAsked || !('host' in event.writer) || event.writer.host !== host)
      return 'only a host that was asked may say so of itself'
  }
  if (isFact(event)) {
    const host = hostOf(migration, saidBy[event.type])
    if (!('host' in event.writer) || event.writer.host !== host)
      return `only ${host ?? 'nobody'}, the ${saidBy[event.type]}, may say ${event.type}`
  }
  if (isVerdict(event)) {
    if (event.data.after !== 0 || attempt.verdict !== undefined) return 'the verdict has been given'
    if (event.data.target !== attempt.slot?.target) return `${event.data.target} is not the target`
  }
  if (isCommand(event)) {
    const asked = phases[phase].asks.some(
      (ask) => ask.command === event.type && hostOf(migration, ask.of) === event.data.host,
    )
    return asked ? undefined : `${event.type} is not asked of ${event.data.host} while ${phase}`
  }
  if (event.type === 'Fenced' && event.data.host !== attempt.slot?.target)
    return `${event.data.host} is not the target`
  if (event.type === 'Admitted' && event.data.source !== source) return `the guest is on ${source}`
  const { on, notes } = phases[phase]
  return on[event.type] === undefined && !notes.includes(event.type)
    ? `${event.type} cannot happen while ${phase}`
    : undefined
}

function learn(migration: Migration, event: MigrationEvent, place: Place): void {
  const { attempt } = migration
  if (isFact(event)) {
    // The first word counts; of a series the last one is the present.
    if (attempt.facts[event.type] !== undefined && !isSeries(event.type)) return
    Object.assign(attempt.facts, { [event.type]: { ...place, id: event.id, data: event.data } })
    return
  }
  if (isVerdict(event)) {
    Object.assign(attempt, {
      verdict: { ...place, type: event.type, id: event.id, data: event.data },
    })
    return
  }
  if (isCommand(event)) {
    const key = askKey({
      command: event.type,
      of: event.data.host === migration.source ? 'source' : 'target',
    })
    attempt.asked[key] = { ...place, times: (attempt.asked[key]?.times ?? 0) + 1 }
    return
  }
  switch (event.type) {
    case 'CommandUnknown': {
      const { host, command } = event.data
      attempt.unknown ??= { ...place, host, command }
      return
    }
    case 'Admitted':
      attempt.slot = { admission: place.position, target: event.data.target }
      return
    case 'CancelAsked':
      migration.cancelAsked ??= { ...place, by: event.data.by }
      return
    case 'LimitsSet':
      migration.policy = limited(migration.policy, event.data)
      migration.limitsSet = place
      return
    case 'Retried':
      if (attempt.slot !== undefined) migration.triedTargets.push(attempt.slot.target)
      migration.attempt = freshAttempt(attempt.number + 1)
      return
    case 'Fenced': {
      const { host, by, evidence } = event.data
      attempt.fence = { ...place, id: event.id, host, by, evidence }
      return
    }
    case 'FenceFailed': {
      const times = (attempt.fenceFailed?.times ?? 0) + 1
      attempt.fenceFailed = { ...place, times, evidence: event.data.evidence }
      return
    }
    case 'DoubtRaised':
      attempt.doubt = { ...place, question: event.data.question }
      return
    case 'Completed':
      migration.end = { ...place, guestLost: false, openDuties: event.data.openDuties }
      return
    case 'Abandoned': {
      const { cause, openDuties } = event.data
      // Whoever gave up waiting may not have heard it yet; it stands there all the same.
      const guestLost = event.data.guestLost || migration.attempt.facts.SourceLost !== undefined
      migration.end = { ...place, cause, guestLost, openDuties }
      return
    }
  }
}

const freshAttempt = (number: number): Attempt => ({ number, asked: {}, facts: {} })

const isFact = (event: MigrationEvent): event is EventOf<FactName> => isFactName(event.type)
const isVerdict = (event: MigrationEvent): event is EventOf<VerdictName> =>
  messages[event.type].kind === 'verdict'
export const isCommand = (event: Event): event is EventOf<CommandName> =>
  messages[event.type].kind === 'command' && messages[event.type].about === 'migration'

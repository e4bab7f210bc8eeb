import type { EventOf } from '@ferry/schemas/event'
import type { Cause } from '@ferry/schemas/refusal'
import type { Fleet } from '@ferry/events/fleet'
import type { Guest } from '@ferry/events/guest'
import type { Guarded } from '@ferry/events/log'
import { askKey, complaintOf, hostOf, isOtherHand } from '@ferry/events/migration'
import type { Migration } from '@ferry/events/migration'
import { isCancellable, isEnded } from '@ferry/events/phases'
import type { PhaseName } from '@ferry/events/phases'
import { failureSentence } from '@ferry/events/sentences'
import { admit } from './admission.ts'
import { ask, askToStart, unanswered } from './ask.ts'
import { aboutMigration, decisionOn } from './envelope.ts'
import { doubtQuestion } from './doubt.ts'
import { fence } from './fence.ts'
import { isLeftover } from './recover.ts'
import type { Step } from './step.ts'
import { rest, soonest } from './step.ts'
import type { World } from './world.ts'

/** What to do next about one guest. Decisions come first: what is decided changes whom to ask. */
export function nextStep(fleet: Fleet, guest: Guest, world: World): Step {
  if (guest.start !== undefined) return askToStart(guest, guest.start, world)
  const { migration } = guest
  if (migration === undefined || isEnded(migration.phase)) return rest

  const decided = toDecide({ fleet, guest, migration, world })
  if (decided !== undefined) return { decide: decided, command: [] }
  return soonest([
    ask(fleet, migration, world),
    fence(migration, world),
    ...timeLimits(migration, world),
  ])
}

type Case = {
  readonly fleet: Fleet
  readonly guest: Guest
  readonly migration: Migration
  readonly world: World
}

/** What stands on the record to be decided now, if anything does. */
function toDecide(the: Case): Guarded | undefined {
  const { migration, world } = the
  const { phase, attempt } = migration
  if (phase === 'queued') return leaveQueue(the)
  if (isCancellable(phase)) {
    const cause = whyCancel(migration, world)
    return cause && cancelled(migration, cause, world)
  }
  if (phase === 'confirming') return completed(the)
  if (phase === 'cancelling') return afterCancelling(the)
  if (attempt.facts.TargetNeverRan !== undefined) return fencedByItself(the)
  const doubtAt = phase === 'activating' ? doubtedFrom(migration, world) : undefined
  return doubtAt !== undefined && world.now >= doubtAt ? doubtRaised(the) : undefined
}

/** A target that says that it is still fetching has answered so far, unless what it fetches does not come any more. */
function doubtedFrom({ since, attempt, policy, requested }: Migration, world: World): number {
  const { TargetFetching } = attempt.facts
  const fromNow = since.storedAt + world.rules.doubtMs
  if (TargetFetching === undefined) return fromNow
  if (TargetFetching.data.isBroken) return TargetFetching.storedAt
  return Math.max(fromNow, requested.storedAt + policy.timeoutMs)
}

/** Out of the queue: into a slot, or out of the world. */
function leaveQueue({ fleet, guest, migration, world }: Case): Guarded | undefined {
  const cause = wholeTimedOut(migration, world) ?? asked(migration)
  if (cause !== undefined)
    return abandoned({ guest, migration, world }, { cause, openDuties: [], guestLost: false })
  if (isGone(fleet, guest, migration)) {
    const { source: host, vm } = migration
    const refusal = { type: 'GuestGone' as const, vm }
    const guestLost = Object.keys(guest.seenOn).length === 0
    const gone = { type: 'Refused' as const, host, refusal }
    return abandoned({ guest, migration, world }, { cause: gone, openDuties: [], guestLost })
  }
  const admission = admit(fleet, migration, world)
  if (!('target' in admission)) return undefined
  return {
    ...aboutMigration(migration, world),
    type: 'Admitted',
    id: `${migration.id}.${migration.attempt.number}.Admitted@${fleet.ledger}`,
    data: { after: fleet.ledger, source: migration.source, target: admission.target },
  }
}

/**
 * It ran on the source when this was asked for; since then the source has said that it has no copy of it, or none but
 * what another migration left there: a log that lost its tail may have forgotten that one, and not who waits.
 */
function isGone(fleet: Fleet, { seenOn }: Guest, { source, requested }: Migration): boolean {
  const copy = seenOn[source]
  const reportedAt = fleet.hosts.get(source)?.position ?? 0
  return reportedAt > requested.position && (copy === undefined || isLeftover.has(copy.state))
}

/** A source that never answers does not hold the guest: what it owes is written down. */
function completed(the: Case): EventOf<'Completed'> | undefined {
  const { migration, guest } = the
  if (!isSettled(the)) return undefined
  return {
    ...decision(the, 'Completed'),
    type: 'Completed',
    data: { after: guest.head, openDuties: openDuties(migration) },
  }
}

/**
 * All have answered, or those who have not were asked and had their time. What nobody has asked for is never left open: a
 * coordinator may come late, and its host may be well and know of nothing.
 */
function isSettled(the: Case): boolean {
  const { migration, world } = the
  const owed = unanswered(migration)
  if (owed.length === 0) return true
  const wereAsked = owed.every((each) => migration.attempt.asked[askKey(each)] !== undefined)
  return wereAsked && waitedMs(the) >= world.rules.settleMs
}

/** The verdict is Cancelled, or a fence stands in for it: wait for both hosts, then try again or give up. */
function afterCancelling(the: Case): Guarded | undefined {
  const { migration, guest } = the
  const { facts } = migration.attempt
  if (!isSettled(the)) return undefined

  const cause = causeOfEnd(migration)
  const data = { cause, openDuties: openDuties(migration) }
  // Another try needs a guest that runs on the source by its own word; a target may go on owing its answer.
  return facts.SourceResumed !== undefined && mayRetry(the, cause)
    ? { ...decision(the, 'Retried'), type: 'Retried', data: { after: guest.head, ...data } }
    : abandoned(the, {
        ...data,
        guestLost: facts.SourceLost !== undefined && !runsSomewhere(guest),
      })
}

/** Somebody else has moved it meanwhile. */
const runsSomewhere = ({ seenOn }: Guest): boolean =>
  Object.values(seenOn).some(({ state }) => state === 'running')

function mayRetry({ fleet, migration, world }: Case, cause: Cause): boolean {
  const { attempt, policy, wanted, source, cancelAsked, triedTargets } = migration
  if (cancelAsked !== undefined || attempt.number >= policy.attempts) return false
  if (wholeTimedOut(migration, world) !== undefined) return false
  if (isOtherHand(cause) || attempt.facts.SourceResumed?.data.leftPaused === true) return false
  if (cause.type === 'TimedOut' || cause.type === 'Failed') return true
  if (cause.type !== 'Refused') return false
  // One of the two hosts has got another key since: the next attempt seals for that.
  if (cause.refusal.type === 'DefinitionSealed') return true
  // Any other refusal stands, unless it was the target's and there are others to ask.
  if (cause.host === source || wanted !== undefined) return false
  const tried = new Set([source, attempt.slot?.target, ...triedTargets])
  return [...fleet.hosts.keys()].some((host) => !tried.has(host))
}

function causeOfEnd(migration: Migration): Cause {
  const { verdict, facts, slot, fence } = migration.attempt
  // Who knows that somebody else did it may have been the second to say that it failed.
  const complaint = complaintOf(migration)
  if (complaint !== undefined && isOtherHand(complaint)) return complaint
  if (verdict?.type === 'Cancelled') return verdict.data.cause
  const host = fence?.host ?? slot?.target ?? ''
  return facts.TargetNeverRan === undefined
    ? { type: 'Fenced', host, by: fence?.by ?? '' }
    : { type: 'Failed', host, failure: facts.TargetNeverRan.data.failure }
}

/** Why the verdict should be Cancelled, if it should. */
const whyCancel = (migration: Migration, world: World): Cause | undefined =>
  asked(migration) ??
  complaintOf(migration) ??
  wholeTimedOut(migration, world) ??
  phaseTimedOut(migration, world)

const asked = ({ cancelAsked }: Migration): Cause | undefined =>
  cancelAsked && { type: 'Asked', by: cancelAsked.by }

function wholeTimedOut({ policy, requested }: Migration, world: World): Cause | undefined {
  const limitMs = policy.timeoutMs
  const isOver = world.now - requested.storedAt >= limitMs
  return isOver ? { type: 'TimedOut', phase: 'the whole migration', limitMs } : undefined
}

function phaseTimedOut(migration: Migration, world: World): Cause | undefined {
  const { phase, since } = migration
  const limitMs = limitOf(migration, world)
  const isOver = limitMs !== undefined && world.now - since.storedAt >= limitMs
  return isOver ? { type: 'TimedOut', phase, limitMs } : undefined
}

function limitOf({ phase, policy }: Migration, { rules }: World): number | undefined {
  const { beginning, preparing, switching } = rules.phaseLimitsMs
  return new Map<PhaseName, number>([
    ['beginning', beginning],
    ['preparing', preparing],
    ['switching', switching + policy.downtimeMs],
  ]).get(phase)
}

/** The moments at which time alone gives something to decide. */
function timeLimits(migration: Migration, world: World): Step[] {
  const { phase, policy, requested, since } = migration
  const { rules } = world
  const limitMs = limitOf(migration, world)
  const moments = [
    phase === 'queued' || isCancellable(phase) ? requested.storedAt + policy.timeoutMs : undefined,
    limitMs === undefined ? undefined : since.storedAt + limitMs,
    phase === 'confirming' || phase === 'cancelling' ? since.storedAt + rules.settleMs : undefined,
    phase === 'activating' ? doubtedFrom(migration, world) : undefined,
  ]
  return moments.flatMap((lookAgainAt) =>
    lookAgainAt === undefined ? [] : [{ command: [], lookAgainAt }],
  )
}

const waitedMs = ({ migration, world }: Case): number => world.now - migration.since.storedAt

/** Hosts that have not answered what the present phase asks of them. */
function openDuties(migration: Migration): { host: string; command: string }[] {
  return unanswered(migration).flatMap(({ command, of }) => {
    const host = hostOf(migration, of)
    return host === undefined ? [] : [{ host, command }]
  })
}

function cancelled(
  migration: Migration,
  cause: Cause,
  world: World,
): EventOf<'Cancelled'> | undefined {
  const { slot, number } = migration.attempt
  if (slot === undefined) return undefined
  return {
    ...aboutMigration(migration, world),
    type: 'Cancelled',
    id: `${migration.id}.${number}.Cancelled`,
    data: { after: 0, target: slot.target, cause },
  }
}

function fencedByItself(the: Case): EventOf<'Fenced'> {
  const { TargetNeverRan } = the.migration.attempt.facts
  const host = the.migration.attempt.slot?.target ?? ''
  const why = TargetNeverRan === undefined ? '' : failureSentence(TargetNeverRan.data.failure)
  return {
    ...decision(the, 'Fenced'),
    type: 'Fenced',
    data: {
      after: the.guest.head,
      host,
      by: host,
      evidence: `It knows that it sent no start: ${why}.`,
    },
  }
}

function doubtRaised(the: Case): EventOf<'DoubtRaised'> {
  const host = the.migration.attempt.slot?.target ?? ''
  const question = doubtQuestion(the.fleet, the.migration)
  return {
    ...decision(the, 'DoubtRaised'),
    type: 'DoubtRaised',
    data: { after: the.guest.head, host, question },
  }
}

const abandoned = (
  the: Omit<Case, 'fleet'>,
  data: Omit<EventOf<'Abandoned'>['data'], 'after'>,
): EventOf<'Abandoned'> => ({
  ...decision(the, 'Abandoned'),
  type: 'Abandoned',
  data: { after: the.guest.head, ...data },
})

const decision = ({ guest, migration, world }: Omit<Case, 'fleet'>, name: string) =>
  decisionOn(guest, migration, name, world)

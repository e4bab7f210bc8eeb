import type { EventOf } from '@ferry/schemas/event'
import type { NamesOf } from '@ferry/schemas/messages'
import { defaultPolicy, limited } from '@ferry/schemas/policy'
import type { RequestRefusal } from '@ferry/schemas/refusal'
import type {
  CancelRequest,
  LimitRequest,
  MigrateRequest,
  ResolveRequest,
  StartRequest,
} from '@ferry/schemas/request'
import { timestamp } from '@ferry/events/clock'
import type { Fleet } from '@ferry/events/fleet'
import { migrationOf } from '@ferry/events/fleet'
import { isBusy, runningOn, unknownGuest } from '@ferry/events/guest'
import type { Guest } from '@ferry/events/guest'
import { targetOf } from '@ferry/events/migration'
import type { Migration } from '@ferry/events/migration'
import { isFenceable, phases } from '@ferry/events/phases'
import { candidatesFor } from './admission.ts'
import { decisionOn } from './envelope.ts'
import { isSilent } from './world.ts'
import type { World } from './world.ts'

/** A request becomes a decision to be recorded, or was recorded before, or is refused. */
export type Judgement<Name extends NamesOf<'decision' | 'recovery'>> =
  | { readonly decision: EventOf<Name> }
  | { readonly recorded: number }
  | { readonly refusal: RequestRefusal }

const refuse = (refusal: RequestRefusal) => ({ refusal })

export function judgeMigrate(
  fleet: Fleet,
  request: MigrateRequest,
  world: World,
): Judgement<'MigrationRequested'> {
  const { request: id, vm, target, by } = request
  const known = fleet.index.get(id)
  if (known !== undefined && known !== vm)
    return refuse({ type: 'RequestIdTaken', request: id, vm: known })
  const before = migrationOf(fleet, id)
  if (before !== undefined) return { recorded: before.requested.position }

  const guest = fleet.guests.get(vm)
  const located = locate(vm, guest)
  if ('refusal' in located) return located
  const { source, needs } = located
  if (target === source) return refuse({ type: 'AlreadyThere', vm, host: source })
  if (target !== undefined && !fleet.hosts.has(target))
    return refuse({ type: 'UnknownHost', host: target })

  const policy = { ...defaultPolicy, ...request.policy }
  const { postCopyAfterMs, directConnections, copyDisks = false } = policy
  if (postCopyAfterMs !== undefined && (directConnections !== 1 || copyDisks))
    return refuse({
      type: 'NotUnderstood',
      path: '/policy/postCopyAfterMs',
      problem: 'is for images that go directly, over one connection, and without disks',
    })

  const wish = { vm, source, ...(target === undefined ? {} : { wanted: target }) }
  const candidates = candidatesFor(fleet, wish, needs, world)
  const considered = candidates.flatMap(({ host, unfit }) =>
    unfit === undefined ? [] : [{ host, unfit }],
  )
  if (considered.length === candidates.length) {
    const [only] = considered
    return target !== undefined && only !== undefined
      ? refuse({ type: 'TargetUnfit', ...only })
      : refuse({ type: 'NoTarget', vm, considered })
  }
  const after = guest?.head ?? 0
  return {
    decision: {
      type: 'MigrationRequested',
      id: `${id}.MigrationRequested@${after}`,
      writer: world.me,
      time: timestamp(world.now),
      vm,
      migration: id,
      attempt: 1,
      ...(request.traceparent === undefined ? {} : { traceparent: request.traceparent }),
      data: {
        after,
        source,
        ...(target === undefined ? {} : { target }),
        policy,
        by,
      },
    },
  }
}

export function judgeCancel(
  fleet: Fleet,
  { migration: id, by }: CancelRequest,
  world: World,
): Judgement<'CancelAsked'> {
  const migration = migrationOf(fleet, id)
  if (migration === undefined) return refuse({ type: 'UnknownMigration', migration: id })
  const { cancelAsked, end, phase, attempt } = migration
  // Whoever asked may not have heard the answer; to anybody else it says more that it is over.
  if (cancelAsked !== undefined && (end === undefined || cancelAsked.by === by))
    return { recorded: cancelAsked.position }
  if (end !== undefined) return refuse({ type: 'AlreadyEnded', migration: id, outcome: phase })
  const { verdict } = attempt
  if (verdict?.type === 'Committed')
    return refuse({ type: 'TooLateToCancel', migration: id, committedAt: verdict.position })
  const guest = guestOf(fleet, migration)
  return {
    decision: {
      ...decisionOn(guest, migration, 'CancelAsked', world),
      type: 'CancelAsked',
      data: { after: guest.head, by },
    },
  }
}

/** What it keeps to already is not recorded once more. */
export function judgeLimit(
  fleet: Fleet,
  { migration: id, by, ...limits }: LimitRequest,
  world: World,
): Judgement<'LimitsSet'> {
  const migration = migrationOf(fleet, id)
  if (migration === undefined) return refuse({ type: 'UnknownMigration', migration: id })
  const { phase, end, policy, limitsSet, requested } = migration
  const next = limited(policy, limits)
  const isKept =
    next.downtimeMs === policy.downtimeMs &&
    next.bandwidthBytesPerSecond === policy.bandwidthBytesPerSecond
  // Whoever changed them may not have heard the answer, and it may be over by now.
  if (isKept && limitsSet !== undefined) return { recorded: limitsSet.position }
  if (end !== undefined) return refuse({ type: 'AlreadyEnded', migration: id, outcome: phase })
  if (!phases[phase].notes.includes('LimitsSet'))
    return refuse({ type: 'TooLateToLimit', migration: id, phase })
  if (isKept) return { recorded: requested.position }
  const guest = guestOf(fleet, migration)
  const older = [...fleet.hosts.values()].find(
    ({ host, report }) =>
      (report.decisionsVersion ?? 1) < LIMITS_SINCE &&
      (world.alive.has(host) || concerns(migration, guest, host)),
  )
  if (older !== undefined)
    return refuse({
      type: 'HostOlder',
      host: older.host,
      agentVersion: older.report.agentVersion,
    })
  return {
    decision: {
      ...decisionOn(guest, migration, 'LimitsSet', world),
      type: 'LimitsSet',
      data: { after: guest.head, ...limits, by },
    },
  }
}

const LIMITS_SINCE = 2

/** Such a host reads what was decided about the guest, now or when it comes back. */
const concerns = (migration: Migration, { seenOn, stale }: Guest, host: string): boolean =>
  [migration.source, migration.wanted, targetOf(migration)].includes(host) ||
  seenOn[host] !== undefined ||
  stale[host] !== undefined

/** A live host has not been fenced, whatever somebody believes at night: that takes saying so twice. */
export function judgeResolve(
  fleet: Fleet,
  { migration: id, fenced: host, by, evidence = 'no evidence was given', insist }: ResolveRequest,
  world: World,
): Judgement<'Fenced'> {
  const migration = migrationOf(fleet, id)
  if (migration === undefined) return refuse({ type: 'UnknownMigration', migration: id })
  const { vm, phase, attempt, end } = migration
  const { fence, slot, facts } = attempt
  if (fence?.host === host) return { recorded: fence.position }
  if (end !== undefined) return refuse({ type: 'AlreadyEnded', migration: id, outcome: phase })
  const { TargetRunning } = facts
  if (TargetRunning !== undefined && slot !== undefined)
    return refuse({
      type: 'TargetAnswered',
      vm,
      host: slot.target,
      answeredAt: TargetRunning.position,
    })
  if (!isFenceable(phase) || slot === undefined)
    return refuse({ type: 'NothingToFence', migration: id, phase })
  if (host !== slot.target)
    return refuse({ type: 'NotTheTarget', migration: id, host, target: slot.target })
  if (insist !== true && world.alive.has(host)) return refuse({ type: 'HostAlive', vm, host })
  if (insist !== true && !isSilent(host, world)) return refuse({ type: 'NotSilentYet', vm, host })

  const guest = guestOf(fleet, migration)
  return {
    decision: {
      ...decisionOn(guest, migration, 'Fenced', world),
      type: 'Fenced',
      data: { after: guest.head, host, by, evidence },
    },
  }
}

export function judgeStart(
  fleet: Fleet,
  request: StartRequest,
  world: World,
): Judgement<'StartOrdered'> {
  const { request: id, vm, host, by } = request
  const guest = fleet.guests.get(vm)
  const before = [guest?.start, guest?.answeredStart].find((start) => start?.id === id)
  if (before !== undefined) return { recorded: before.position }
  if (guest?.start !== undefined)
    return refuse({ type: 'StartPending', vm, host: guest.start.host })
  if (guest?.migration !== undefined && isBusy(guest))
    return refuse({ type: 'AlreadyMigrating', vm, migration: guest.migration.id })
  const [where] = Object.keys(guest?.seenOn ?? {})
  if (where !== undefined) return refuse({ type: 'AlreadyRunning', vm, host: where })
  if (!fleet.hosts.has(host)) return refuse({ type: 'UnknownHost', host })
  if (!world.alive.has(host))
    return refuse({ type: 'TargetUnfit', host, unfit: { type: 'HostSilent', host } })
  if (guest?.stale[host] !== undefined)
    return refuse({ type: 'TargetUnfit', host, unfit: { type: 'StaleCopy', vm } })
  const after = guest?.head ?? 0
  return {
    decision: {
      type: 'StartOrdered',
      id: `${id}.StartOrdered@${after}`,
      writer: world.me,
      time: timestamp(world.now),
      vm,
      data: { after, host, start: id, by },
    },
  }
}

/** The one host on which the guest runs, and what it needs. */
function locate(vm: string, guest: Guest | undefined) {
  const [copy] = Object.values(guest?.seenOn ?? {})
  if (guest === undefined || copy === undefined) return refuse({ type: 'UnknownGuest', vm })
  if (guest.start !== undefined) return refuse({ type: 'StartPending', vm, host: guest.start.host })
  if (guest.migration !== undefined && isBusy(guest))
    return refuse({ type: 'AlreadyMigrating', vm, migration: guest.migration.id })
  const hosts = runningOn(guest)
  if (hosts.length > 1) return refuse({ type: 'GuestOnSeveralHosts', vm, hosts })
  const [source] = hosts
  const needs = source === undefined ? undefined : guest.seenOn[source]?.needs
  if (source === undefined || needs === undefined)
    return refuse({ type: 'GuestNotRunning', vm, state: copy.state })
  return { source, needs }
}

const guestOf = (fleet: Fleet, { vm }: Migration): Guest => fleet.guests.get(vm) ?? unknownGuest(vm)

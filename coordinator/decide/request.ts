import type { EventOf } from '@ferry/schemas/event'
import { defaultPolicy } from '@ferry/schemas/policy'
import type { RequestRefusal } from '@ferry/schemas/refusal'
import type { CancelRequest, MigrateRequest, StartRequest } from '@ferry/schemas/request'
import { timestamp } from '@ferry/events/clock'
import type { Fleet } from '@ferry/events/fleet'
import { migrationOf } from '@ferry/events/fleet'
import { isBusy, runningOn } from '@ferry/events/guest'
import type { Guest } from '@ferry/events/guest'
import type { Migration } from '@ferry/events/migration'
import { candidatesFor } from './admission.ts'
import { aboutMigration } from './envelope.ts'
import type { World } from './world.ts'

/** A request becomes a decision to be recorded, or was recorded before, or is refused. */
export type Judgement<
  Name extends 'MigrationRequested' | 'CancelAsked' | 'StartOrdered' | 'LogRecovered',
> =
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
        policy: { ...defaultPolicy, ...request.policy },
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
  if (migration.end !== undefined)
    return refuse({ type: 'AlreadyEnded', migration: id, outcome: migration.phase })
  if (migration.cancelAsked !== undefined) return { recorded: migration.cancelAsked.position }
  const { verdict } = migration.attempt
  if (verdict?.type === 'Committed')
    return refuse({ type: 'TooLateToCancel', migration: id, committedAt: verdict.position })
  return { decision: cancelAsked(migration, fleet.guests.get(migration.vm)?.head ?? 0, by, world) }
}

export function judgeStart(
  fleet: Fleet,
  request: StartRequest,
  world: World,
): Judgement<'StartOrdered'> {
  const { request: id, vm, host, by } = request
  const guest = fleet.guests.get(vm)
  if (guest?.start?.id === id) return { recorded: guest.start.position }
  if (guest?.start !== undefined)
    return refuse({ type: 'StartPending', vm, host: guest.start.host })
  if (guest?.migration !== undefined && isBusy(guest))
    return refuse({ type: 'AlreadyMigrating', vm, migration: guest.migration.id })
  const [where] = Object.keys(guest?.seenOn ?? {})
  if (where !== undefined) return refuse({ type: 'AlreadyRunning', vm, host: where })
  if (!fleet.hosts.has(host)) return refuse({ type: 'UnknownHost', host })
  if (!world.alive.has(host))
    return refuse({ type: 'TargetUnfit', host, unfit: { type: 'HostSilent', host } })
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

const cancelAsked = (
  migration: Migration,
  after: number,
  by: string,
  world: World,
): EventOf<'CancelAsked'> => ({
  ...aboutMigration(migration, world),
  type: 'CancelAsked',
  id: `${migration.id}.${migration.attempt.number}.CancelAsked@${after}`,
  data: { after, by },
})

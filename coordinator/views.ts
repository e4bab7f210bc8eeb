import type { FleetView, MigrationView, StatusView } from '@ferry/schemas/view'
import type { Fleet } from '@ferry/events/fleet'
import { migrationOf } from '@ferry/events/fleet'
import { runningOn } from '@ferry/events/guest'
import type { Guest } from '@ferry/events/guest'
import { targetOf } from '@ferry/events/migration'
import type { Migration } from '@ferry/events/migration'
import { isEnded, phases } from '@ferry/events/phases'
import { causeSentence, few, hostRefusalSentence, unfitSentence } from '@ferry/events/sentences'
import { admit } from './decide/admission.ts'
import { doubtQuestion } from './decide/doubt.ts'
import type { World } from './decide/world.ts'

/** The fold as others see it: names instead of structures, and each view with the position that it is true for. */

export function statusView(fleet: Fleet, id: string, world: World): StatusView | undefined {
  const migration = migrationOf(fleet, id)
  return (
    migration && { position: fleet.position, migration: migrationView(fleet, migration, world) }
  )
}

export function fleetView(fleet: Fleet, world: World): FleetView {
  const used = new Map<string, number>()
  for (const { seenOn } of fleet.guests.values())
    for (const [host, { needs }] of Object.entries(seenOn))
      used.set(host, (used.get(host) ?? 0) + needs.memoryBytes)
  return {
    position: fleet.position,
    ...(fleet.leader === undefined ? {} : { leader: fleet.leader.coordinator }),
    hosts: [...fleet.hosts.values()].toSorted(byName('host')).map(({ host, report }) => ({
      host,
      isAlive: world.alive.has(host),
      hypervisor: `${report.hypervisor} ${report.hypervisorVersion}`,
      memoryBytes: report.memoryBytes,
      usedBytes: used.get(host) ?? 0,
      address: `${report.address.host}:${report.address.port}`,
      agentVersion: report.agentVersion,
    })),
    guests: [...fleet.guests.values()].toSorted(byName('vm')).map((guest) => ({
      vm: guest.vm,
      copies: Object.entries(guest.seenOn).map(([host, { state, needs, unmovable }]) => ({
        host,
        state,
        needs,
        ...(unmovable === undefined ? {} : { unmovable, sentence: hostRefusalSentence(unmovable) }),
      })),
      ...(guest.start === undefined ? {} : { startingOn: guest.start.host }),
      isAlarming: runningOn(guest).length > 1,
      ...(guest.migration === undefined || isLongPast(guest, guest.migration, world)
        ? {}
        : { migration: migrationView(fleet, guest.migration, world) }),
    })),
  }
}

/** A guest that is nowhere has left, as a rule. The fleet is full of its last migration, which the log can still tell. */
const isLongPast = ({ seenOn }: Guest, { phase, since, end }: Migration, { now }: World): boolean =>
  Object.keys(seenOn).length === 0 &&
  isEnded(phase) &&
  (end?.openDuties ?? []).length === 0 &&
  now - since.storedAt > SHOWN_FOR_MS

const SHOWN_FOR_MS = 24 * 60 * 60 * 1000

function migrationView(fleet: Fleet, migration: Migration, world: World): MigrationView {
  const { id, vm, source, phase, attempt, policy, by, requested, since, end, cancelAsked } =
    migration
  const target = targetOf(migration) ?? migration.wanted
  const waitsFor = whatFor(fleet, migration, world)
  return {
    migration: id,
    vm,
    source,
    ...(target === undefined ? {} : { target }),
    phase,
    meaning: phases[phase].meaning,
    attempt: attempt.number,
    policy,
    by,
    requestedAt: requested.storedAt,
    phaseSince: since.storedAt,
    ...(attempt.verdict === undefined
      ? {}
      : { verdict: { type: attempt.verdict.type, position: attempt.verdict.position } }),
    ...(cancelAsked === undefined ? {} : { cancelAskedBy: cancelAsked.by }),
    ...(waitsFor === undefined ? {} : { waitsFor }),
    ...(end?.cause === undefined ? {} : { cause: end.cause, sentence: causeSentence(end.cause) }),
    openDuties: [...(end?.openDuties ?? [])],
  }
}

/** Why a queued migration waits: the limit and who stands in it, or what speaks against every host. */
function whatFor(fleet: Fleet, migration: Migration, world: World): string | undefined {
  if (migration.phase === 'inDoubt') {
    const { fenceFailed } = migration.attempt
    const failed = fenceFailed && ` Turning it off failed: ${fenceFailed.evidence}.`
    return doubtQuestion(fleet, migration) + (failed ?? '')
  }
  if (migration.phase !== 'queued') return undefined
  const admission = admit(fleet, migration, world)
  if ('target' in admission) return undefined
  if ('blockedBy' in admission)
    return `The limit of ${admission.blockedBy.limit} is reached by ${few(admission.blockedBy.holders, ', ')}.`
  return `No host can take it now: ${few(admission.unfit.map(({ host, unfit }) => `${host}: ${unfitSentence(unfit)}`))}.`
}

const byName =
  <Key extends string>(key: Key) =>
  (a: Record<Key, string>, b: Record<Key, string>): number =>
    a[key] < b[key] ? -1 : 1

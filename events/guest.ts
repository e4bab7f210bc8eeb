import type { EventOf } from '@ferry/schemas/event'
import type { GuestNeeds, GuestState, MadeFor } from '@ferry/schemas/guest'
import type { GuestReport } from '@ferry/schemas/inventory'
import { messages } from '@ferry/schemas/messages'
import type { Cause, HostRefusal } from '@ferry/schemas/refusal'
import * as migrations from './migration.ts'
import type { Fence, Migration, MigrationEvent, Place } from './migration.ts'
import { isEnded } from './phases.ts'

/**
 * The fold of one guest: where it was seen, what was decided about it, and its present or last migration.
 *
 * **Who wins is decided by order.** A decision carries `after`: the position of the last valid decision on this
 * guest's subject. The first in stream order whose `after` is right is valid and moves the head; any other is void.
 */
export type Guest = {
  readonly vm: string
  /** The position of the last valid decision: what the next one must name. */
  head: number
  /** Where hosts say that they have a copy, and what it is doing there. */
  seenOn: { [host: string]: Seen }
  /** Where each host last stated a fact about this guest: an inventory that was taken before that is out of date. */
  spoke: { [host: string]: number }
  /** Hosts that were fenced, and have not said since that their copy is gone: whatever they have of it is stale. */
  stale: { [host: string]: StaleCopy }
  /** It was on a host that came back under another key, and without it; until it is seen anywhere again. */
  gone?: Gone
  /** Ordered to start, not yet answered. */
  start?: Place & { readonly id: string; readonly host: string; asked: number; askedAt: number }
  /** The last start that was answered: whoever orders it twice has ordered it once. */
  answeredStart?: { readonly id: string; readonly position: number }
  migration?: Migration
}

/** The attempt that brought a copy to a host, and the fence that made it worthless. */
export type StaleCopy = {
  readonly fence: Fence
  readonly migration: string
  readonly attempt: number
  readonly admission: number
  readonly traceparent?: string
}

/** `lastSeen`: the report under the key before. */
export type Gone = Place & { readonly host: string; readonly lastSeen: number }

export type Seen = {
  state: GuestState
  needs: GuestNeeds
  receives?: MadeFor
  unmovable?: HostRefusal
}

export type GuestEvent =
  | MigrationEvent
  | EventOf<'MigrationRequested' | 'StartOrdered' | 'Start' | 'GuestStarted' | 'StartRefused'>

export const unknownGuest = (vm: string): Guest => ({
  vm,
  head: 0,
  seenOn: {},
  spoke: {},
  stale: {},
})

/** @returns why the event is void, or undefined when it counts. */
export function evolve(guest: Guest, event: GuestEvent, place: Place): string | undefined {
  const why = judge(guest, event, place)
  // A verdict says nothing of what a copy does, and inventories do not count it (`asOf`).
  const isWord = 'host' in event.writer && messages[event.type].kind === 'fact'
  if (why === undefined && isWord) guest.spoke[event.writer.host] = place.position
  return why
}

function judge(guest: Guest, event: GuestEvent, place: Place): string | undefined {
  if (isDecision(event)) {
    if (event.data.after !== guest.head)
      return `it was decided after ${event.data.after}, but by then the last decision was ${guest.head}`
    // The head moves even when the decision no longer fits the phase: the rule must not depend on any other subject.
    guest.head = place.position
  }
  switch (event.type) {
    case 'MigrationRequested':
      if (isBusy(guest)) return 'the guest was being moved or started already'
      guest.migration = migrations.begin(event, place)
      return undefined
    case 'StartOrdered':
      if (isBusy(guest)) return 'the guest was being moved or started already'
      guest.start = {
        ...place,
        id: event.data.start,
        host: event.data.host,
        asked: 0,
        askedAt: place.storedAt,
      }
      return undefined
    case 'Start':
      if (guest.start?.id !== event.data.start) return 'no such start is wanted'
      guest.start.asked += 1
      guest.start.askedAt = place.storedAt
      return undefined
    case 'GuestStarted':
    case 'StartRefused':
      return evolveStart(guest, event)
    default:
      return evolveMigration(guest, event, place)
  }
}

/**
 * What a host's inventory says of this guest; undefined: that it has no copy.
 *
 * @param gone what is to be remembered if a copy that was whole is here no more.
 */
export function sight(
  guest: Guest,
  host: string,
  report: GuestReport | undefined,
  asOf: number,
  gone?: Gone,
): void {
  if (asOf < (guest.spoke[host] ?? 0)) return
  if (report === undefined) {
    const { state } = guest.seenOn[host] ?? {}
    delete guest.seenOn[host]
    const wasWhole = state === 'running' || state === 'paused' || state === 'unresponsive'
    if (wasWhole && gone !== undefined && Object.keys(guest.seenOn).length === 0) guest.gone = gone
    return
  }
  const { vm: _, ...seen } = report
  see(guest, host, seen)
}

function see(guest: Guest, host: string, seen: Seen): void {
  guest.seenOn[host] = seen
  delete guest.gone
}

/** The hosts on which the guest's vCPUs run, by their own word. More than one is an alarm (I1). */
export const runningOn = (guest: Guest): string[] =>
  Object.keys(guest.seenOn).filter((host) => guest.seenOn[host]?.state === 'running')

/** One migration, or one start, for each guest (I6). */
export const isBusy = (guest: Guest): boolean =>
  guest.start !== undefined || (guest.migration !== undefined && !isEnded(guest.migration.phase))

/**
 * A person said where the guest belongs, after the log had lost its tail: no attempt from before goes on, and no fence
 * from before speaks against a copy, which may have come behind it.
 */
export function recover(guest: Guest, host: string | undefined, cause: Cause, place: Place): void {
  const { migration } = guest
  guest.stale = {}
  delete guest.gone
  if (migration !== undefined && !isEnded(migration.phase) && migration.phase !== 'queued')
    migrations.endBy(migration, host, cause, place)
}

function evolveStart(
  guest: Guest,
  event: EventOf<'GuestStarted' | 'StartRefused'>,
): string | undefined {
  const { start } = guest
  if (start?.id !== event.data.start) return 'no such start is wanted'
  if (!('host' in event.writer) || event.writer.host !== start.host)
    return `only ${start.host} may say so`
  guest.answeredStart = { id: start.id, position: start.position }
  delete guest.start
  if (event.type === 'GuestStarted') {
    see(guest, start.host, { state: 'running', needs: event.data.needs })
    delete guest.stale[start.host]
  }
  return undefined
}

function evolveMigration(guest: Guest, event: MigrationEvent, place: Place): string | undefined {
  const { migration } = guest
  const isSettled = event.type === 'TargetCleared' && settleFence(guest, event)
  if (migration?.id !== event.migration)
    return isSettled ? undefined : `${event.migration} is not this guest's present migration`
  const why = migrations.evolve(migration, event, place)
  if (why !== undefined) return isSettled ? undefined : why
  follow(guest, migration, event)
  keepFences(guest, migration, event)
  return undefined
}

/** A host that was fenced returns when it can; its attempt, and even its migration, may be long over by then. */
function settleFence(guest: Guest, { writer, data }: EventOf<'TargetCleared'>): boolean {
  if (!('host' in writer) || guest.stale[writer.host]?.admission !== data.admission) return false
  delete guest.stale[writer.host]
  delete guest.seenOn[writer.host]
  return true
}

function keepFences(guest: Guest, migration: Migration, event: MigrationEvent): void {
  const { id, traceparent, attempt } = migration
  const { fence, slot } = attempt
  if (event.type === 'Fenced' && fence !== undefined && slot !== undefined)
    guest.stale[fence.host] = {
      fence,
      migration: id,
      attempt: attempt.number,
      admission: slot.admission,
      ...(traceparent === undefined ? {} : { traceparent }),
    }
  // It has made another copy, which it does only where there is none: what is there now came behind the fence.
  if (event.type === 'TargetPrepared' && slot !== undefined) delete guest.stale[slot.target]
}

/** A migration's facts say where the guest is, sooner than the next inventory does. */
function follow(guest: Guest, migration: Migration, event: MigrationEvent): void {
  const { source } = migration
  const target = migrations.targetOf(migration)
  const needs = guest.seenOn[source]?.needs ?? migration.attempt.facts.MigrationBegun?.data.needs
  if (needs === undefined || target === undefined) return
  switch (event.type) {
    case 'TargetRunning':
      see(guest, target, { state: 'running', needs })
      if (guest.seenOn[source] !== undefined) guest.seenOn[source] = { state: 'sent', needs }
      return
    case 'SourceReleased':
    case 'SourceLost':
      delete guest.seenOn[source]
      return
    case 'SourceResumed':
      see(guest, source, { state: event.data.leftPaused === true ? 'paused' : 'running', needs })
      return
    case 'TargetCleared':
      delete guest.seenOn[target]
      return
    default:
  }
}

const isDecision = (event: GuestEvent): event is GuestEvent & { data: { after: number } } =>
  messages[event.type].kind === 'decision'

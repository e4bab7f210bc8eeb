import type { EventOf } from '@ferry/schemas/event'
import type { DataOf } from '@ferry/schemas/messages'
import { Immer } from 'immer'
import * as alarms from './alarms.ts'
import type { Alarms } from './alarms.ts'
import type { Entry } from './entry.ts'
import * as guests from './guest.ts'
import type { Guest, GuestEvent } from './guest.ts'
import type { Migration, Place } from './migration.ts'
import { isEnded } from './phases.ts'

/**
 * The fold of the whole log: coordinators, the command line, the page and the tests all see the fleet through it.
 *
 * One mutating recipe for each entity serves twice: `follow` gives it immer drafts, so that whoever holds a guest
 * keeps what it saw; `note` and `replay` change plain objects (fifty times cheaper).
 */
export type Fleet = {
  position: number
  readonly guests: Map<string, Guest>
  readonly hosts: Map<string, Host>
  /** The guest of each migration that is still remembered. */
  readonly index: Map<string, string>
  /** Migrations that ended and are no longer their guest's last one, oldest first. */
  readonly past: Map<string, Migration>
  /** The position of the last valid admission. */
  ledger: number
  /** What speaks against the log itself, and the last answer to it. */
  alarms: Alarms
  leader?: Place & { readonly coordinator: string; readonly epoch: number }
}

export type Host = Place & { readonly host: string; readonly report: DataOf<'HostReported'> }

/** What an entry did: nothing and why, or which guests it touched. */
export type Ruling = { readonly why: string } | { readonly touched: readonly string[] }

/** How many migrations are remembered behind the present ones; older ones are in the log. */
const REMEMBERED = 10_000

export const emptyFleet = (): Fleet => ({
  position: 0,
  guests: new Map(),
  hosts: new Map(),
  index: new Map(),
  past: new Map(),
  ledger: 0,
  alarms: alarms.noAlarms(),
})

/** The types keep readers from changing what they hold; to freeze it as well took a tenth of what the simulator takes. */
const { produce } = new Immer({ autoFreeze: false })

/** Folds one entry, live: entities are replaced, never changed under a reader. */
export const follow = (fleet: Fleet, entry: Entry): Ruling => fold(fleet, entry, produce)

/** The same for a fleet of which nobody holds any part: entities are changed in place. */
export const note = (fleet: Fleet, entry: Entry): Ruling => fold(fleet, entry, mutate)

/** Folds many entries in place: for a start from the log. The same state, to the byte, as `follow` gives (I8). */
export async function replay(
  entries: AsyncIterable<Entry>,
  fleet: Fleet = emptyFleet(),
): Promise<Fleet> {
  for await (const entry of entries) note(fleet, entry)
  return fleet
}

/** The migration of that id: present, last, or still remembered. */
export function migrationOf(fleet: Fleet, id: string): Migration | undefined {
  const vm = fleet.index.get(id)
  const present = vm === undefined ? undefined : fleet.guests.get(vm)?.migration
  return present?.id === id ? present : fleet.past.get(id)
}

/** What follows from a whole fleet, worked out once at each position, however many of its guests it is asked for. */
export function derived<Result>(workOut: (fleet: Fleet) => Result): (fleet: Fleet) => Result {
  const kept = new WeakMap<Fleet, { readonly position: number; readonly result: Result }>()
  return (fleet) => {
    const last = kept.get(fleet)
    if (last?.position === fleet.position) return last.result
    const result = workOut(fleet)
    kept.set(fleet, { position: fleet.position, result })
    return result
  }
}

/** All migrations that have not ended, in the order in which they were asked for. */
export const underWay = derived((fleet): readonly Migration[] => {
  const migrations: Migration[] = []
  for (const { migration } of fleet.guests.values())
    if (migration !== undefined && !isEnded(migration.phase)) migrations.push(migration)
  return migrations.toSorted((a, b) => a.requested.position - b.requested.position)
})

/** The state as one text, the same for the same state whatever way it was reached (I8). */
export const fingerprint = (fleet: Fleet): string => [...fingerprintParts(fleet)].join('')

/** The same text, an entity at a time, for whoever must not stand still while it is made. */
export function* fingerprintParts(fleet: Fleet): Generator<string, void, undefined> {
  const sorted = <T>(map: Map<string, T>) => [...map].toSorted(([a], [b]) => (a < b ? -1 : 1))
  const { position, ledger, leader = null, alarms, guests, hosts, index, past } = fleet
  yield `[${[position, ledger, leader, alarms].map(canonical).join()}`
  // Of guests and hosts the order means nothing; of what is remembered the oldest is forgotten first.
  for (const entities of [sorted<unknown>(guests), sorted<unknown>(hosts), [...index], [...past]]) {
    let before = ',['
    for (const entity of entities) {
      yield before + canonical(entity)
      before = ','
    }
    yield before === ',' ? ']' : ',[]'
  }
  yield ']'
}

const canonical = (value: unknown): string =>
  JSON.stringify(value, (_, inner: unknown) =>
    isRecord(inner)
      ? Object.fromEntries(Object.entries(inner).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )

type Change = <T extends Guest | Alarms>(entity: T, recipe: (draft: T) => void) => T
const mutate: Change = (entity, recipe) => {
  recipe(entity)
  return entity
}

function fold(fleet: Fleet, entry: Entry, change: Change): Ruling {
  fleet.position = entry.position
  const { message } = entry
  if (message.is === 'void') return { why: message.why }
  if (message.is === 'unknown') return { why: `${message.type} is not known here` }
  const { event } = message
  const place = { position: entry.position, storedAt: entry.storedAt }

  switch (event.type) {
    case 'HostReported':
      return foldReport(fleet, event, place, change)
    case 'LeadershipTaken':
      if ('coordinator' in event.writer)
        fleet.leader = { ...place, coordinator: event.writer.coordinator, epoch: event.data.epoch }
      return { touched: [] }
    case 'ConnectionRefused':
    case 'ProgressSampled':
      return { touched: [] }
    case 'LogBehind':
    case 'LogRecovered':
      return foldAlarm(fleet, event, place, change)
    case 'Admitted': {
      // The ledger's own head, by the same rule as a guest's decisions: no two can take the last slot (I6).
      if (event.data.after !== fleet.ledger) return { why: `the ledger stood at ${fleet.ledger}` }
      fleet.ledger = entry.position
      return foldGuest(fleet, event, place, change)
    }
    case 'Committed':
    case 'Cancelled':
      // By its migration, as its subject is: hosts read nothing but that subject, and must agree with this fold (I3).
      return foldGuest(fleet, event, place, change, fleet.index.get(event.migration))
    default:
      return foldGuest(fleet, event, place, change)
  }
}

function foldGuest(
  fleet: Fleet,
  event: GuestEvent,
  place: Place,
  change: Change,
  vm = event.vm,
): Ruling {
  const before = fleet.guests.get(vm) ?? guests.unknownGuest(vm)
  const last = before.migration
  let why: string | undefined
  const after = change(before, (draft) => {
    why = guests.evolve(draft, event, place)
  })
  fleet.guests.set(vm, after)
  if (event.type === 'MigrationRequested' && why === undefined) remember(fleet, event, last)
  return why === undefined ? { touched: [vm] } : { why }
}

/** A recovery is the answer for every guest that it names; a start that was ordered before has to be ordered again. */
function foldAlarm(
  fleet: Fleet,
  event: EventOf<'LogBehind' | 'LogRecovered'>,
  place: Place,
  change: Change,
): Ruling {
  let why: string | undefined
  fleet.alarms = change(fleet.alarms, (draft) => {
    why = alarms.evolve(draft, event, place)
  })
  if (why !== undefined) return { why }
  if (event.type === 'LogBehind') return { touched: [] }
  const { guests: named, by } = event.data
  for (const { vm, host } of named) {
    const guest = fleet.guests.get(vm) ?? guests.unknownGuest(vm)
    const cause = { type: 'Recovered' as const, by, position: place.position }
    fleet.guests.set(
      vm,
      change(guest, (draft) => guests.recover(draft, host, cause, place)),
    )
  }
  for (const guest of fleet.guests.values())
    if (guest.start !== undefined)
      fleet.guests.set(
        guest.vm,
        change(guest, (draft) => void delete draft.start),
      )
  return { touched: [...fleet.guests.keys()] }
}

function foldReport(
  fleet: Fleet,
  event: EventOf<'HostReported'>,
  place: Place,
  change: Change,
): Ruling {
  if (!('host' in event.writer)) return { why: 'only a host reports itself' }
  const { host } = event.writer
  const has = new Map(event.data.guests.map((guest) => [guest.vm, guest]))
  // Whatever was seen here before, by a report or by a fact: what the report leaves out is here no more.
  const had = [...fleet.guests.values()].filter(({ seenOn }) => seenOn[host] !== undefined)
  const before = fleet.hosts.get(host)
  const isOther = before !== undefined && before.report.key !== event.data.key
  const gone = isOther ? { ...place, host, lastSeen: before.position } : undefined
  fleet.hosts.set(host, { ...place, host, report: event.data })

  const touched = [...new Set([...had.map(({ vm }) => vm), ...has.keys()])]
  for (const vm of touched) {
    const guest = fleet.guests.get(vm) ?? guests.unknownGuest(vm)
    fleet.guests.set(
      vm,
      change(guest, (draft) => guests.sight(draft, host, has.get(vm), event.data.asOf, gone)),
    )
  }
  return { touched }
}

/** A guest's new migration pushes its last one into the past, and the oldest of the past out. */
function remember(
  fleet: Fleet,
  { migration, vm }: EventOf<'MigrationRequested'>,
  last?: Migration,
): void {
  fleet.index.set(migration, vm)
  if (last !== undefined) fleet.past.set(last.id, last)
  for (const old of fleet.past.keys()) {
    if (fleet.past.size <= REMEMBERED) break
    fleet.past.delete(old)
    fleet.index.delete(old)
  }
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

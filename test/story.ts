import { nextStep } from '@ferry/coordinator/decide/next-step'
import type { Step } from '@ferry/coordinator/decide/step'
import { defaultRules } from '@ferry/coordinator/decide/world'
import type { Rules, World } from '@ferry/coordinator/decide/world'
import { encode } from '@ferry/schemas/cloud-event'
import type { Event } from '@ferry/schemas/event'
import { messages } from '@ferry/schemas/messages'
import { readEntry } from '@ferry/events/entry'
import type { Entry } from '@ferry/events/entry'
import { emptyFleet, follow } from '@ferry/events/fleet'
import type { Fleet, Ruling } from '@ferry/events/fleet'
import type { Migration } from '@ferry/events/migration'
import { subjectOf } from '@ferry/events/subjects'
import * as assert from 'uvu/assert'
import { RIGHT } from './events/examples.ts'

/**
 * A story in the words of the domain: `given(...).when(...).then(...)`. Events are stored a second apart; where one says
 * `RIGHT`, it gets the head or the admission that is right at its place.
 */
export const START_AT = Date.parse('2026-11-23T10:00:00Z')
const STEP_MS = 1000

export type Told = {
  readonly fleet: Fleet
  readonly entries: readonly Entry[]
  readonly rulings: readonly Ruling[]
}

/** An event, or several that are told in one breath. */
export type Telling = Event | readonly Event[]

export function tell(...telling: readonly Telling[]): Told {
  const fleet = emptyFleet()
  const entries: Entry[] = []
  const rulings: Ruling[] = []
  for (const event of telling.flat()) {
    const body = encode(placed(event, fleet))
    const position = entries.length + 1
    const subject = subjectOf(event) ?? 'ferry.nowhere'
    const entry = readEntry({ position, storedAt: START_AT + position * STEP_MS, subject, body })
    entries.push(entry)
    rulings.push(follow(fleet, entry))
  }
  return { fleet, entries, rulings }
}

/** With the head and the admission that are right at its place. */
export function placed(event: Event, fleet: Fleet): Event {
  const data: Record<string, unknown> = { ...event.data }
  const guest = 'vm' in event ? fleet.guests.get(event.vm) : undefined
  if (data.after === RIGHT)
    data.after = messages[event.type].kind === 'admission' ? fleet.ledger : (guest?.head ?? 0)
  if (data.admission === RIGHT) data.admission = guest?.migration?.attempt.slot?.admission ?? 0
  return { ...event, data } as unknown as Event
}

/** The world as a coordinator sees it `laterMs` after the last event. */
export function worldAfter(
  { entries, fleet }: Told,
  laterMs: number,
  rules: Partial<Rules> = {},
  about: Partial<World> = {},
): World {
  return {
    now: START_AT + entries.length * STEP_MS + laterMs,
    alive: new Set(fleet.hosts.keys()),
    listenedMs: 60_000,
    known: new Set(fleet.hosts.keys()),
    canFence: new Set(),
    rules: { ...defaultRules, ...rules },
    me: { coordinator: 'c1' },
    ...about,
  }
}

/** What the coordinator does after these events. */
export function given(...telling: readonly Telling[]) {
  const told = tell(...telling)
  const at = (laterMs: number, vm = 'web1', about: Partial<World> = {}) => {
    const guest = told.fleet.guests.get(vm)
    if (guest === undefined) throw new Error(`the story has no guest ${vm}`)
    return outcome(nextStep(told.fleet, guest, worldAfter(told, laterMs, {}, about)))
  }
  return { ...told, migration: () => migrationIn(told), next: () => at(0), later: at }
}

export function migrationIn({ fleet }: Told, vm = 'web1'): Migration {
  const migration = fleet.guests.get(vm)?.migration
  if (migration === undefined) throw new Error(`${vm} is not being moved`)
  return migration
}

function outcome(step: Step) {
  const words = [
    ...(step.decide === undefined ? [] : [step.decide.type]),
    ...step.command.map((command) => `${command.type} → ${command.data.host}`),
    ...(step.fence === undefined ? [] : [`fence ${step.fence.host}`]),
  ]
  return {
    step,
    /** What is done now: decisions by name, commands with whom they are for, a host that is turned off. */
    is: (...expected: readonly string[]) => assert.equal(words, expected),
  }
}

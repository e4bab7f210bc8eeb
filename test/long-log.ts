import type { Entry } from '@ferry/events/entry'
import { readEntry } from '@ferry/events/entry'
import { emptyFleet, follow } from '@ferry/events/fleet'
import type { Log } from '@ferry/events/log'
import { subjectOf } from '@ferry/events/subjects'
import { encode } from '@ferry/schemas/cloud-event'
import type { Event } from '@ferry/schemas/event'
import { RIGHT } from './events/examples.ts'
import * as examples from './events/examples.ts'
import { placed } from './story.ts'

/** A log of a fleet's past: its guests move one after the other, again and again. Every event counts. */
export function* longLog(length: number, guests = 100): Generator<Event, void, undefined> {
  const fleet = emptyFleet()
  let position = 0
  for (const event of migrations(guests)) {
    if (position === length) return
    position += 1
    const real = placed(event, fleet)
    follow(fleet, entryOf(real, position))
    yield real
  }
}

export function entryOf(event: Event, position: number): Entry {
  const subject = subjectOf(event) ?? 'ferry.nowhere'
  const storedAt = 1_790_000_000_000 + position
  return readEntry({ position, storedAt, subject, body: encode(event) })
}

function* migrations(guests: number): Generator<Event, void, undefined> {
  const names = Array.from({ length: guests }, (_, number) => `vm${number}`)
  yield examples.hostReported(
    'rack1',
    names.map((vm) => ({ vm, state: 'running' as const })),
  )
  yield examples.hostReported('rack2')
  for (let round = 1; ; round++)
    for (const vm of names) {
      const about = { vm, migration: `${vm}-${round}` }
      yield examples.requested(about)
      yield examples.admitted(about)
      yield examples.begin(about)
      yield examples.migrationBegun(about)
      yield examples.prepare(about)
      yield examples.targetPrepared(about)
      yield examples.roundPassed(1, about)
      yield examples.roundPassed(2, about)
      yield examples.sourcePaused({ ...about, admission: RIGHT })
      yield examples.performed(about)
      yield examples.committed(about)
      yield examples.targetRunning(about)
      yield examples.sourceReleased(about)
      yield examples.completed(about)
    }
}

/** Appends them in their order, many at a time. */
export async function appendAll(log: Log, events: Iterable<Event>): Promise<void> {
  let waiting: Promise<unknown>[] = []
  for (const event of events) {
    waiting.push(log.append(event))
    if (waiting.length < AT_ONCE) continue
    await Promise.all(waiting)
    waiting = []
  }
  await Promise.all(waiting)
}

const AT_ONCE = 500

import type { EventOf } from '@ferry/schemas/event'
import type { CommandName } from '@ferry/events/phases'
import { journal } from '@ferry/host-agent/journal'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  begin,
  migrationBegun,
  prepare,
  prepareRefused,
  sourceResumed,
  targetPrepared,
} from '../events/examples.ts'
import type { Event } from '@ferry/schemas/event'

const test = suite("an agent's journal")

/** A journal that has seen these facts, each with the admission that it is said to belong to. */
function after(...facts: [Event, number][]) {
  const seen = journal()
  facts.forEach(([event, admission], nth) =>
    seen.note({
      position: nth + 1,
      storedAt: 0,
      subject: '',
      message: { is: 'event', event: of(event, admission) },
    }),
  )
  return seen
}

const of = <E extends Event>(event: E, admission: number): E => ({
  ...event,
  data: { ...event.data, admission },
})
const command = <Name extends CommandName>(event: EventOf<Name>, admission: number) =>
  of(event as EventOf<CommandName>, admission)

test('obeys what it has not answered', () => {
  assert.is(after().judge(command(begin(), 5)), 'obey')
  assert.is(after([migrationBegun(), 3]).judge(command(begin(), 5)), 'obey')
})

test('does not do again what it has answered, whatever the answer was', () => {
  assert.is(after([migrationBegun(), 5]).judge(command(begin(), 5)), 'answered')
  assert.is(after([prepareRefused(), 5]).judge(command(prepare(), 5)), 'answered')
})

test('obeys only the latest attempt', () => {
  assert.is(after([targetPrepared(), 7]).judge(command(begin(), 5)), 'superseded')
})

test('an attempt that is over is obeyed no more', () => {
  const over = after([migrationBegun(), 5], [sourceResumed(), 5])
  assert.is(over.judge(command(prepare(), 5)), 'superseded')
  assert.is(over.judge(command(prepare(), 9)), 'obey')
})

test('one guest says nothing about another', () => {
  const seen = after([migrationBegun({ vm: 'web1' }), 5])
  assert.is(seen.judge(command(begin({ vm: 'web2' }), 4)), 'obey')
})

test('knows the position of the last fact', () => {
  assert.is(after([migrationBegun(), 5], [targetPrepared(), 5]).upTo(), 2)
})

test.run()

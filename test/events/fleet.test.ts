import { emptyFleet, fingerprint, follow, migrationOf, replay } from '@ferry/events/fleet'
import { runningOn } from '@ferry/events/guest'
import type { Event } from '@ferry/schemas/event'
import * as fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { migrationIn, tell } from '../story.ts'
import {
  RIGHT,
  abandoned,
  admitted,
  cancelAsked,
  cancelled,
  committed,
  hostReported,
  migrationBegun,
  performFailed,
  requested,
  retried,
  sourcePaused,
  sourceResumed,
  targetCleared,
  targetRunning,
  upToPerforming,
} from './examples.ts'
import { anyStory, asyncly, whole } from './stories.ts'

/** Why the last event of a story is void; undefined when it counts. */
function whyVoid(...events: Event[]): string | undefined {
  const ruling = tell(...events).rulings.at(-1)
  return ruling !== undefined && 'why' in ruling ? ruling.why : undefined
}

test('a guest that arrived and then ended is gone with the next report, which never knew it', () => {
  const arrived = whole()
  const { fleet } = tell(...arrived, hostReported('rack2', [], { asOf: arrived.length }))
  assert.equal(fleet.guests.get('web1')?.seenOn, {})
})

test('an inventory behind the verdict counts, also from an agent that has said nothing since', () => {
  const asOf = upToPerforming().length
  const there = hostReported('rack2', [{ vm: 'web1', state: 'loaded' }], { asOf })
  const gone = tell(...upToPerforming(), there, committed(), hostReported('rack2', [], { asOf }))
  assert.is(gone.fleet.guests.get('web1')?.seenOn.rack2, undefined)
})

test('a migration goes from request to completed, and the guest with it', () => {
  const told = tell(...whole())
  assert.is(migrationIn(told).phase, 'completed')
  const guest = told.fleet.guests.get('web1')
  assert.equal(guest && runningOn(guest), ['rack2'])
  assert.equal(
    told.rulings.filter((ruling) => 'why' in ruling),
    [],
  )
})

test('of two decisions at one head the first in the log is valid, the other void', () => {
  const told = tell(
    hostReported('rack1'),
    requested({ after: 0 }),
    requested({ after: 0, migration: 'm2' }),
  )
  assert.match(
    JSON.stringify(told.rulings[2]),
    /decided after 0, but by then the last decision was 2/,
  )
  assert.is(migrationIn(told).id, 'm1')
})

test('a void decision does not move the head', () => {
  const told = tell(requested({ after: 0 }), requested({ after: 7 }), cancelAsked({ after: 1 }))
  assert.is(migrationIn(told).cancelAsked?.position, 3)
})

test('a decision that came too late for its phase is void, and the next one names it all the same', () => {
  // Another coordinator abandoned what this one admitted a moment before.
  const told = tell(...upToPerforming().slice(0, 4), abandoned())
  assert.match(JSON.stringify(told.rulings.at(-1)), /Abandoned cannot happen while beginning/)
  assert.is(told.fleet.guests.get('web1')?.head, told.entries.length)
})

test('the first valid verdict counts, and nothing behind it (I3)', () => {
  const story = [...upToPerforming(), committed()]
  assert.match(whyVoid(...story, cancelled()) ?? '', /verdict has been given/)
  assert.match(whyVoid(...story, committed()) ?? '', /verdict has been given/)
  assert.is(migrationIn(tell(...story, cancelled())).phase, 'activating')
})

test('a verdict that does not claim to be the first is none', () => {
  assert.match(whyVoid(...upToPerforming(), cancelled({ after: 3 })) ?? '', /verdict/)
})

test('a verdict finds its guest by its migration, as its subject does', () => {
  const told = tell(...upToPerforming(), cancelled({ vm: 'another guest' }))
  assert.is(migrationIn(told).phase, 'cancelling')
})

test("a host's word counts only for its own part (I9)", () => {
  const story = upToPerforming()
  const paused = sourcePaused({ admission: RIGHT, writer: { host: 'rack2' } })
  assert.match(whyVoid(...story, paused) ?? '', /only rack1, the source, may say SourcePaused/)
  assert.match(whyVoid(...story, targetRunning({ writer: { host: 'rack1' } })) ?? '', /only rack2/)
})

test('a guest cannot run on the target before it was committed there', () => {
  assert.match(
    whyVoid(...upToPerforming(), targetRunning()) ?? '',
    /cannot happen while performing/,
  )
})

test('what belongs to an earlier attempt, or to another slot, is void', () => {
  const again = [
    ...upToPerforming(),
    performFailed(),
    cancelled(),
    sourceResumed(),
    targetCleared(),
    retried(),
    admitted({ attempt: 2 }),
  ]
  assert.match(whyVoid(...again, migrationBegun()) ?? '', /attempt 1 is not the present one/)
  assert.match(whyVoid(...again, migrationBegun({ attempt: 2, admission: 4 })) ?? '', /slot of 4/)
  assert.is(whyVoid(...again, migrationBegun({ attempt: 2 })), undefined)
})

test('one migration for each guest (I6)', () => {
  assert.match(whyVoid(...upToPerforming(), requested({ migration: 'm2' })) ?? '', /being moved/)
  assert.is(whyVoid(...whole(), requested({ migration: 'm2', source: 'rack2' })), undefined)
})

test('two admissions at one head: only the first takes the slot (I6)', () => {
  const two = [
    hostReported('rack1', [
      { vm: 'web1', state: 'running' },
      { vm: 'web2', state: 'running' },
    ]),
    hostReported('rack2'),
    requested(),
    requested({ vm: 'web2', migration: 'm2' }),
    admitted({ after: 0 }),
  ]
  assert.match(whyVoid(...two, admitted({ after: 0, vm: 'web2', migration: 'm2' })) ?? '', /ledger/)
  assert.is(whyVoid(...two, admitted({ vm: 'web2', migration: 'm2' })), undefined)
})

test('a guest that two hosts report running is on both', () => {
  const told = tell(
    hostReported('rack1', [{ vm: 'web1', state: 'running' }]),
    hostReported('rack2', [{ vm: 'web1', state: 'running' }]),
  )
  const guest = told.fleet.guests.get('web1')
  assert.equal(guest && runningOn(guest), ['rack1', 'rack2'])
})

test('a migration is remembered when its guest has gone on to the next', () => {
  const told = tell(...whole(), requested({ migration: 'm2', source: 'rack2' }))
  assert.is(migrationOf(told.fleet, 'm1')?.phase, 'completed')
  assert.is(migrationOf(told.fleet, 'm2')?.phase, 'queued')
  assert.is(migrationOf(told.fleet, 'm3'), undefined)
})

test('live and replayed, in any order of any events, the state is the same, and whoever held it keeps it (I8)', async () => {
  await fc.assert(
    fc.asyncProperty(anyStory, fc.nat(60), async (events, middle) => {
      const { entries } = tell(...events)
      const live = emptyFleet()
      let held: { state: unknown; text: string } | undefined
      for (const [at, entry] of entries.entries()) {
        follow(live, entry)
        if (at === middle) {
          const state = live.guests.get('web1')
          held = { state, text: JSON.stringify(state) ?? '' }
        }
      }
      const replayed = await replay(asyncly(entries))
      assert.is(fingerprint(replayed), fingerprint(live))
      if (held !== undefined) assert.is(JSON.stringify(held.state) ?? '', held.text)
    }),
    { numRuns: 300 },
  )
})

test('a replayed fleet goes on live', async () => {
  const { entries } = tell(...whole())
  const half = await replay(asyncly(entries.slice(0, 9)))
  for (const entry of entries.slice(9)) follow(half, entry)
  assert.is(fingerprint(half), fingerprint(await replay(asyncly(entries))))
})

test.run()

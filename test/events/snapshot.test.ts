import { isStopped } from '@ferry/events/alarms'
import { systemClock } from '@ferry/events/clock'
import type { Entry } from '@ferry/events/entry'
import { isEvent } from '@ferry/events/entry'
import { emptyFleet, fingerprint, follow, replay } from '@ferry/events/fleet'
import type { Fleet } from '@ferry/events/fleet'
import { snapshotFaultSentence } from '@ferry/events/sentences'
import { fleetFrom, hashOf, snapshotOf } from '@ferry/events/snapshot'
import type { Bytes, Seal } from '@ferry/events/snapshot'
import type { Event } from '@ferry/schemas/event'
import * as fc from 'fast-check'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { entryOf, longLog } from '../long-log.ts'
import { tell } from '../story.ts'
import { abandoned, logBehind, requested } from './examples.ts'
import { anyStory, asyncly, whole } from './stories.ts'

const test = suite('a snapshot')

const FOLD = 'this fold'

/** The fold of the entries up to a position, put away and taken out again. */
async function kept(entries: readonly Entry[], position: number): Promise<Bytes> {
  const fleet = emptyFleet()
  for (const entry of entries.slice(0, position)) follow(fleet, entry)
  return bytesOf(fleet, entries[position - 1])
}

async function bytesOf(fleet: Fleet, last: Entry | undefined): Promise<Bytes> {
  if (last === undefined || !isEvent(last)) throw new Error('a snapshot stands behind an event')
  return snapshotOf(fleet, last, { fold: FOLD, clock: systemClock })
}

async function opened(snapshot: Bytes): Promise<Fleet> {
  const found = await fleetFrom(snapshot, FOLD)
  if ('fault' in found) throw new Error(snapshotFaultSentence(found.fault))
  return found.fleet
}

async function whyNot(snapshot: Bytes, fold = FOLD): Promise<string> {
  const found = await fleetFrom(snapshot, fold)
  return 'fault' in found ? snapshotFaultSentence(found.fault) : 'it was taken'
}

/** From a snapshot, replayed and live: as the whole log gives it. */
async function isOneWay(entries: readonly Entry[], position: number): Promise<void> {
  const whole = fingerprint(await replay(asyncly(entries)))
  const snapshot = await kept(entries, position)
  const rest = entries.slice(position)
  assert.is(fingerprint(await replay(asyncly(rest), await opened(snapshot))), whole)
  const live = await replay(asyncly([]), await opened(snapshot))
  for (const entry of rest) follow(live, entry)
  assert.is(fingerprint(live), whole)
}

test('anywhere in any story leads to the state that a full replay gives (I8)', async () => {
  await fc.assert(
    fc.asyncProperty(anyStory, fc.nat(60), async (events, cut) => {
      const { entries } = tell(...events)
      const position = Math.min(cut, entries.length)
      if (position > 0) await isOneWay(entries, position)
    }),
    { numRuns: 200 },
  )
})

test('anywhere in many migrations as well, with those that are over in their order', async () => {
  const entries = [...longLog(400, 3)].map((event, at) => entryOf(event, at + 1))
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 400 }), (position) => isOneWay(entries, position)),
    { numRuns: 50 },
  )
})

test('keeps the alarms about the log', async () => {
  const { entries } = tell(...whole(), logBehind())
  const fleet = await opened(await kept(entries, entries.length))
  assert.ok(isStopped(fleet.alarms))
  await isOneWay(entries, entries.length)
})

test('forgets what a full replay forgets', async () => {
  const told = emptyFleet()
  const entries: Entry[] = []
  const add = (event: Event) => {
    const entry = entryOf(event, entries.length + 1)
    entries.push(entry)
    const ruling = follow(told, entry)
    assert.not('why' in ruling)
  }
  for (let number = 0; number < 10_100; number++) {
    const head = entries.length
    add(requested({ migration: `m${number}`, after: head }))
    const { data, ...rest } = abandoned({ migration: `m${number}` })
    add({ ...rest, data: { ...data, after: head + 1 } })
  }
  assert.is(told.past.size, 10_000)
  assert.not(told.index.has('m0'))
  await isOneWay(entries, 20_020)
})

test('is the same whatever is folded while it is made', async () => {
  const entries = [...longLog(3000)].map((event, at) => entryOf(event, at + 1))
  const fleet = await replay(asyncly(entries.slice(0, 2000)))
  const hash = await hashOf(fleet)
  const making = bytesOf(fleet, entries[1999])
  for (const entry of entries.slice(2000)) follow(fleet, entry)
  assert.is(await hashOf(await opened(await making)), hash)
})

test('names its state by the hash that a full replay has', async () => {
  const { entries, fleet } = tell(...whole())
  const found = await fleetFrom(await kept(entries, entries.length), FOLD)
  assert.is('seal' in found && found.seal.sha256, await hashOf(fleet))
})

test('of another fold is not trusted', async () => {
  const { entries } = tell(...whole())
  assert.match(await whyNot(await kept(entries, 5), 'a newer fold'), /Another version of Ferry/)
})

test('with any one bit turned is refused, or says of another event that it was the last', async () => {
  const { entries } = tell(...whole())
  const snapshot = await kept(entries, 12)
  // The first line is the part that the hash does not vouch for.
  const anywhere = fc.oneof(fc.nat(snapshot.indexOf(10)), fc.nat(snapshot.length - 1))
  const original = await fleetFrom(snapshot, FOLD)
  const seal = 'seal' in original ? original.seal : undefined
  await fc.assert(
    fc.asyncProperty(anywhere, fc.nat(7), async (at, bit) => {
      const flipped = snapshot.slice()
      flipped[at] = (flipped[at] ?? 0) ^ (1 << bit)
      const found = await fleetFrom(flipped, FOLD)
      if ('seal' in found) assert.is.not(lastEvent(found.seal), seal && lastEvent(seal))
    }),
    { numRuns: 500 },
  )
})

/** What a start compares with the log. */
const lastEvent = ({ subject, event, storedAt }: Seal) => `${subject} ${event} ${storedAt}`

test('that was cut short anywhere is refused with a sentence', async () => {
  const { entries } = tell(...whole())
  const snapshot = await kept(entries, 12)
  for (const length of [0, 1, 100, 400, snapshot.length - 1])
    assert.match(await whyNot(snapshot.slice(0, length)), /^It is (no snapshot|not as it was)/)
})

test('of another format is refused', async () => {
  const bytes = new TextEncoder().encode('{"format":2,"fold":"this fold"}\n[]')
  assert.match(await whyNot(bytes), /It is no snapshot: .*format/)
})

test.run()

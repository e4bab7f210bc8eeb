import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { knownSeeds, simulateAll } from './crew.ts'
import { noFaults } from './faults.ts'
import { commandFor, planOf } from './plan.ts'
import type { Wish } from './plan.ts'
import { simulate } from './simulation.ts'

const test = suite('the simulator')

/** How much of it `npm test` has time for; CI lets it run for longer (`npm run sim -- --seed 1 --migrations 20000`). */
const MIGRATIONS = 300
/** CI's own run begins at seed 1; these are others. */
const FIRST_SEED = 100_000

async function broken(wishes: Iterable<Wish>, enough = Number.POSITIVE_INFINITY) {
  const found: string[] = []
  let migrations = 0
  await simulateAll(wishes[Symbol.iterator](), (report) => {
    migrations += report.outcome.migrations
    if (report.broken !== undefined) found.push(`${report.broken}: ${commandFor(report.wish)}`)
    return migrations >= enough ? 'enough' : 'go on'
  })
  return { found, migrations }
}

test('the same seed gives the same log, byte for byte', async () => {
  const [one, other] = [await simulate(planOf({ seed: 1 })), await simulate(planOf({ seed: 1 }))]
  assert.is(one.hash, other.hash)
  assert.is.not(one.hash, (await simulate(planOf({ seed: 2 }))).hash)
})

test('without faults every migration is completed', async () => {
  const outcome = await simulate({ ...planOf({ seed: 1 }), faults: noFaults })
  assert.is(outcome.violation, undefined)
  assert.ok(outcome.migrations > 20, `${outcome.migrations} migrations`)
  assert.is(outcome.completed, outcome.migrations)
})

test('no seed that once broke a promise breaks one', async () => {
  const text = await readFile(join(import.meta.dirname, 'seeds.txt'), 'utf8')
  const seeds = knownSeeds(text)
  assert.ok(seeds.length > 0)
  assert.equal((await broken(seeds.map((seed) => ({ seed })))).found, [])
})

test('nor does one that nobody has seen', async () => {
  const wishes = Array.from({ length: 500 }, (_, nth) => ({ seed: FIRST_SEED + nth }))
  const { found, migrations } = await broken(wishes, MIGRATIONS)
  assert.equal(found, [])
  assert.ok(migrations >= MIGRATIONS)
})

test.run()

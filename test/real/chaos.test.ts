import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { cellsWith, runCells } from './chaos/matrix.ts'
import { inWords } from './chaos/report.ts'

/** The short form of `pnpm chaos`: the same cells, fewer of them. */
const test = suite('chaos')

/** Longer than the leader's lease; `pnpm chaos` stays away for longer than heartbeats count. */
const AWAY_MS = 3000

const cells = [
  ...cellsWith('performing', 'killed'),
  ...cellsWith('switching', 'agent', 'killed'),
  ...cellsWith('activating: target', 'killed'),
  ...cellsWith('activating: nats-server killed'),
  ...cellsWith('confirming: source agent killed'),
  ...cellsWith('cancelling: both agents killed'),
  ...cellsWith('performing: source agent cut off'),
  ...cellsWith('switching: transfer cut off'),
]

test(`${cells.length} blows: one whole guest runs after each, never two did, and the log says where`, async () => {
  const rows = await runCells(cells, (row) => console.log(`  ${inWords(row)}`), {
    awayMs: AWAY_MS,
  })
  assert.is(rows.length, cells.length)
  assert.equal(
    rows.flatMap(({ result }) => result.broken),
    [],
  )
  // An agent's death costs nothing: who moves the guest outlives it.
  const withoutAgents = rows.filter(
    ({ cell }) =>
      cell.victim.includes('agent') &&
      cell.way === 'killed' &&
      (cell.phase === 'performing' || cell.phase === 'switching'),
  )
  assert.is(withoutAgents.length, 6)
  assert.equal(
    withoutAgents.map(({ result }) => result.outcome),
    withoutAgents.map(() => 'completed'),
  )
})

test.run()

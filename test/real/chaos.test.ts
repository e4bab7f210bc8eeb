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
  ...cellsWith('switching', 'agent killed'),
  ...cellsWith('activating', 'killed'),
  ...cellsWith('confirming', 'the leader killed'),
  ...cellsWith('confirming', 'agent killed'),
  ...cellsWith('cancelling', 'agent killed'),
  ...cellsWith('performing', 'source agent cut off'),
  ...cellsWith('switching', 'the leader stopped'),
  ...cellsWith('switching', 'transfer cut off'),
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
})

test.run()

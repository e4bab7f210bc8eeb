import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { machine } from '../../bench/machine.ts'
import { cellsWith, runCells } from './matrix.ts'
import type { Row } from './matrix.ts'
import { inWords, report } from './report.ts'

/**
 * `pnpm chaos [matrix|failover|alone] [--only WORDS] [--rounds N]`: real processes are hurt in every phase, and looked at
 * from outside afterwards. With neither a part nor `--only`, all of it is run and RESULTS.md is written. The exit code is
 * 1 when a rule was broken, or a blow never fell in its phase.
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: 'string', default: '' },
    rounds: { type: 'string', default: '' },
  },
})
const rounds = values.rounds === '' ? undefined : Number(values.rounds)
if (rounds !== undefined && !(Number.isInteger(rounds) && rounds > 0))
  throw new Error(`--rounds ${values.rounds} is no number`)

/** Each part: its cells, how often, and how the lab is set up for them. */
const parts = {
  failover: {
    rounds: 8,
    // Only a new leader can take the next step, and the killed one does not come back before the end.
    cells: ['beginning', 'preparing', 'activating'].flatMap((phase) =>
      cellsWith(`${phase}: the leader killed`),
    ),
    options: { coordinators: 3, backAfter: 'Completed' },
  },
  alone: {
    rounds: 15,
    cells: [...cellsWith('performing: nobody'), ...cellsWith('performing: all coordinators')],
    options: {},
  },
  matrix: { rounds: 1, cells: cellsWith(...values.only.split(' ')), options: {} },
} as const

const wanted = positionals[0]
if (wanted !== undefined && !Object.hasOwn(parts, wanted))
  throw new Error(`${wanted} is no part; there are ${Object.keys(parts).join(', ')}`)
const isWhole = wanted === undefined && values.only === ''

const results: Record<string, Row[]> = {}
for (const [name, part] of Object.entries(parts)) {
  if (wanted === undefined ? !isWhole && name !== 'matrix' : name !== wanted) continue
  const cells = Array.from({ length: rounds ?? part.rounds }, () => part.cells).flat()
  console.log(`${name}: ${cells.length} cells`)
  const began = performance.now()
  results[name] = await runCells(cells, (row) => console.log(`  ${inWords(row)}`), part.options)
  console.log(`${name}: ${Math.round((performance.now() - began) / 1000)} s`)
}
const page = report(results)
console.log(`\n${page}`)
if (isWhole)
  await writeFile(
    join(import.meta.dirname, '..', 'RESULTS.md'),
    `# What happens when ...\n\nWritten by \`pnpm chaos\`: ${await machine()}.\n\n${page}`,
  )
const isGood = ({ result }: Row) => result.broken.length === 0 && result.isHit
process.exitCode = Object.values(results).flat().every(isGood) ? 0 : 1

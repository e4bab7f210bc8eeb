import { readFileSync, rmSync } from 'node:fs'
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { knownSeeds, simulateAll } from './crew.ts'
import { mutations } from './mutations.ts'
import type { Mutation } from './mutations.ts'
import type { Wish } from './plan.ts'
import type { Report } from './worker.ts'

/**
 * `npm run mutations`: puts each deliberate bug into a copy of the code and lets the simulator look for it. Ends with 1
 * when one of them is not found within the migrations that CI has time for.
 */
const ROOT = join(import.meta.dirname, '..', '..')
const MOST_MIGRATIONS = 20_000
const rooms = ['schemas', 'events', 'coordinator', 'host-agent', 'test']
const words = process.argv.slice(2)
const known = knownSeeds(await readFile(join(import.meta.dirname, 'seeds.txt'), 'utf8'))

/** A bug whose line has changed is said at once. */
for (const { file, from } of mutations)
  if (readFileSync(join(ROOT, file), 'utf8').split(from).length !== 2)
    throw new Error(`'${from}' does not stand once in ${file}`)

const rows: string[] = []
let missed = 0
const copy = await mkdtemp(join(tmpdir(), 'ferry-mutations-'))
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)
  process.once(signal, () => {
    rmSync(copy, { recursive: true, force: true })
    process.exit(code)
  })
try {
  for (const room of rooms)
    await cp(join(ROOT, room), join(copy, room), { recursive: true, verbatimSymlinks: true })
  for (const file of ['package.json', 'pnpm-lock.yaml', 'bundle.mjs'])
    await cp(join(ROOT, file), join(copy, file))
  await symlink(join(ROOT, 'node_modules'), join(copy, 'node_modules'))
  for (const mutation of mutations) {
    if (words.length > 0 && !words.some((word) => mutation.bug.includes(word))) continue
    const { bug, file } = mutation
    const { runs, migrations, seed = '', found } = await within(copy, mutation)
    if (found === undefined) missed += 1
    const row = `| ${bug} | \`${file}\` | ${found ?? '**not found**'} | ${runs} | ${migrations} | ${seed} |`
    console.log(row)
    rows.push(row)
  }
} finally {
  await rm(copy, { recursive: true, force: true })
}
if (words.length === 0)
  await writeFile(join(import.meta.dirname, 'MUTATIONS.md'), `${head()}${rows.join('\n')}\n`)
process.exitCode = missed === 0 ? 0 : 1

async function within(folder: string, { file, from, to }: Mutation) {
  const path = join(folder, file)
  const text = await readFile(path, 'utf8')
  await writeFile(
    path,
    text.replace(from, () => to),
  )
  const report: Search = { runs: 0, migrations: 0 }
  try {
    await simulateAll(
      counting(),
      ({ broken, outcome, wish }: Report) => {
        if (report.found !== undefined) return 'enough'
        report.runs += 1
        report.migrations += outcome.migrations
        if (broken !== undefined) Object.assign(report, { found: broken, seed: wish.seed })
        return broken !== undefined || report.migrations >= MOST_MIGRATIONS ? 'enough' : 'go on'
      },
      join(folder, 'test', 'simulator', 'worker.mjs'),
    )
  } finally {
    await writeFile(path, text)
  }
  return report
}

type Search = { runs: number; migrations: number; found?: string; seed?: number }

/** As CI does: those that ever failed, then all of them. */
function* counting(): Generator<Wish, undefined> {
  for (const seed of known) yield { seed }
  for (let seed = 1; ; seed++) if (!known.includes(seed)) yield { seed }
}

function head(): string {
  return `# Deliberate bugs, and how soon the simulator finds them

Written by \`npm run mutations\` on ${new Date().toISOString().slice(0, 10)}, ${cpus().length} × ${cpus()[0]?.model.trim()}, Node ${process.versions.node}: the seeds of \`seeds.txt\`, then from 1 on, until ${MOST_MIGRATIONS} migrations.

| bug | in | found as | runs | migrations under faults | seed |
| --- | --- | --- | --- | --- | --- |
`
}

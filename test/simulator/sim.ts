import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { knownSeeds, simulateAll } from './crew.ts'
import { faultNames } from './faults.ts'
import type { Remembered } from './log-server.ts'
import type { Faults } from './faults.ts'
import { commandFor, faultsOf, planOf } from './plan.ts'
import type { Wish } from './plan.ts'
import { shrink } from './shrink.ts'
import { simulate } from './simulation.ts'
import type { Report } from './worker.ts'

const USAGE = `npm run sim -- [options]
Lets the whole fleet live through faults, once for each seed, and looks whether a promise was broken.

  --seed N        the first seed (1)
  --runs N        so many seeds; or, whichever ends first:
  --minutes N     for so long
  --migrations N  until so many migrations have been seen
  --known         the seeds that ever failed, from seeds.txt, and no others
  --only FAULTS   only these faults of the seed, with commas; \`none\` for none
  --hosts N --guests N --coordinators N --seconds N     a smaller or larger world`

const TELL_EVERY_MS = 10_000
const MOST_BROKEN = 5
const MOST_LINES = 60

const options = {
  seed: { type: 'string', default: '1' },
  runs: { type: 'string' },
  minutes: { type: 'string' },
  migrations: { type: 'string' },
  known: { type: 'boolean', default: false },
  only: { type: 'string' },
  hosts: { type: 'string' },
  guests: { type: 'string' },
  coordinators: { type: 'string' },
  seconds: { type: 'string' },
  help: { type: 'boolean', default: false },
} as const

const values = readOptions()
if (values.help) {
  console.log(USAGE)
  process.exit(0)
}

const began = performance.now()
const size = Object.fromEntries(
  (['hosts', 'guests', 'coordinators', 'seconds'] as const).flatMap((name) =>
    values[name] === undefined ? [] : [[name, whole(name, values[name])]],
  ),
)
const faults = values.only === undefined ? {} : { only: faultsIn(values.only) }
const wishFor = (seed: number): Wish => ({ seed, ...size, ...faults })
const runs = values.runs === undefined ? Number.POSITIVE_INFINITY : whole('runs', values.runs)
process.exitCode = runs === 1 ? await one(wishFor(whole('seed', values.seed))) : await many()

/** One seed, looked at closely. */
async function one(wish: Wish): Promise<number> {
  const { ever, violation, hash, ...outcome } = await simulate(planOf(wish))
  console.log(`faults: ${faultsOf(wish).join(', ') || 'none'}`)
  console.log(
    `${outcome.migrations} migrations, ${outcome.completed} completed, ${outcome.inDoubt} in doubt, ${outcome.events} events in ${Math.round(outcome.simulatedSeconds)} simulated seconds`,
  )
  console.log(`log: sha256 ${hash}`)
  if (violation === undefined) return 0
  console.log(violation.message)
  console.log(timeline(ever, violation.message))
  return 1
}

async function many(): Promise<number> {
  const limitMs =
    values.minutes === undefined
      ? Number.POSITIVE_INFINITY
      : whole('minutes', values.minutes) * 60_000
  const wanted =
    values.migrations === undefined
      ? Number.POSITIVE_INFINITY
      : whole('migrations', values.migrations)
  const seeds = values.known
    ? knownSeeds(await readFile(join(import.meta.dirname, 'seeds.txt'), 'utf8')).values()
    : counting(whole('seed', values.seed), runs)
  const sum = { runs: 0, migrations: 0, completed: 0, inDoubt: 0, events: 0 }
  const broken: Report[] = []
  let toldAt = began
  await simulateAll(mapped(seeds, wishFor), (report) => {
    const { outcome } = report
    sum.runs += 1
    sum.migrations += outcome.migrations
    sum.completed += outcome.completed
    sum.inDoubt += outcome.inDoubt
    sum.events += outcome.events
    if (report.broken !== undefined) {
      broken.push(report)
      console.log(`seed ${report.wish.seed} breaks ${report.broken}`)
    }
    const now = performance.now()
    if (now - toldAt > TELL_EVERY_MS) {
      toldAt = now
      console.log(summary(sum))
    }
    return broken.length >= MOST_BROKEN || now - began > limitMs || sum.migrations >= wanted
      ? 'enough'
      : 'go on'
  })
  console.log(summary(sum))
  const [first] = broken.toSorted((a, b) => a.wish.seed - b.wish.seed)
  if (first?.broken === undefined) return 0
  console.log(`Making seed ${first.wish.seed} smaller ...`)
  const { wish, outcome } = await shrink(first.wish, first.broken)
  console.log(outcome.violation?.message ?? '')
  console.log(timeline(outcome.ever, outcome.violation?.message ?? ''))
  console.log(`\nTo see it again: ${commandFor(wish)}`)
  return 1
}

/** What the log says about the guest that the sentence names, or of all of them; what it has lost since is marked. */
function timeline(ever: readonly Remembered[], sentence: string): string {
  const vm = /\bvm\d+\b/.exec(sentence)?.[0]
  const lines = ever.flatMap(({ entry, wentWith }) => {
    const { position, storedAt, subject, message } = entry
    const event = message.is === 'event' ? message.event : undefined
    if (vm !== undefined && event !== undefined && !('vm' in event && event.vm === vm)) return []
    const at = ((storedAt - (ever[0]?.entry.storedAt ?? 0)) / 1000).toFixed(3)
    const mark = wentWith === undefined ? ' ' : '-'
    const attempt =
      event !== undefined && 'attempt' in event ? `${event.migration}.${event.attempt} ` : ''
    return [
      `${mark}${String(position).padStart(6)} ${at.padStart(9)} s  ${attempt}${subject}${event === undefined ? ' (void)' : ` ${event.type}`}`,
    ]
  })
  return lines.slice(-MOST_LINES).join('\n')
}

function summary({
  runs: done,
  migrations,
  completed,
  inDoubt,
  events,
}: Record<'runs' | 'migrations' | 'completed' | 'inDoubt' | 'events', number>): string {
  const seconds = Math.round((performance.now() - began) / 1000)
  return `${done} runs, ${migrations} migrations under faults (${completed} completed, ${inDoubt} left in doubt), ${events} events, in ${seconds} s`
}

function* counting(from: number, count: number): Generator<number, undefined> {
  for (let nth = 0; nth < count; nth++) yield from + nth
}

function* mapped<A, B>(items: Iterable<A>, change: (item: A) => B): Generator<B, undefined> {
  for (const item of items) yield change(item)
}

function readOptions() {
  try {
    return parseArgs({ options }).values
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`)
    process.exit(2)
  }
}

function whole(name: string, text: string): number {
  const value = Number(text)
  if (Number.isInteger(value) && value > 0) return value
  console.error(`--${name} ${text} is not a whole number above 0.`)
  process.exit(2)
}

function faultsIn(text: string): (keyof Faults)[] {
  const words = text === 'none' ? [] : text.split(',')
  const unknown = words.filter((word) => !faultNames.some((name) => name === word))
  if (unknown.length > 0) {
    console.error(`There is no fault ${unknown.join(', ')}; there are: ${faultNames.join(', ')}.`)
    process.exit(2)
  }
  return faultNames.filter((name) => words.includes(name))
}

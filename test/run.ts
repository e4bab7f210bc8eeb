import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { rmSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { bundleAll } from '../bundle.mjs'
import { loadNow } from './bench/machine.ts'
import { keep } from './hosts/results.ts'
import type { Tally } from './run-file.ts'

/**
 * Runs every test file in a process of its own, with a time limit. uvu by itself exits 0 when a `before` hook throws
 * or `.run()` is forgotten; here a file that ran no test has failed, and so has one that leaves something running.
 *
 * `npm test -- WORD ...` runs only the files whose path has one of the words in it. What needs hosts of its own is run by
 * `pnpm test:hosts` only, which shows what it says while it runs, and keeps what has passed. Without a word it runs what takes
 * less than 20 minutes together, and names the rest; with `--all` everything, which takes hours.
 */

const here = import.meta.dirname

/** These keep all processors busy, or look at how long something takes. */
const alone = ['chaos', 'cluster.', 'qemu-steps', 'simulator', 'there-and-back', 'verdict-race']

/** What has to do with real guests and servers takes its time, and mostly waits; the rest must be quick. */
const kinds = {
  quick: { ms: 90_000, atOnce: 3 },
  waiting: { ms: 420_000, atOnce: 2 },
  alone: { ms: 420_000, atOnce: 1 },
  hosts: { ms: 3_600_000, atOnce: 1 },
}

/** The longest ones begin, so that no processor is idle at the end. */
const long = [
  'host-agent/fenced',
  'steps',
  'command-line',
  'coordinators',
  'copying',
  'cluster-log',
]

function rank(file: string): number {
  const place = long.findIndex((word) => file.includes(word))
  return place === -1 ? long.length : place
}

function kindOf(file: string): keyof typeof kinds {
  if (isOfHosts(file)) return 'hosts'
  if (!file.startsWith('real/') && !file.startsWith('simulator/')) return 'quick'
  return alone.some((word) => file.includes(word)) ? 'alone' : 'waiting'
}

/** How long a file may take to end after its last test. */
const GRACE_MS = 5000

const isOfHosts = (file: string): boolean => file.startsWith('hosts/')

/** What takes less than 20 minutes is every story that must be told of libvirt and of Xen; these go on from there. */
const lengthy =
  /-(driver|steps)\.test\.ts$|\/libxl-|\/xen-(?!moved)|\/libvirt-(direct|other-hand|post-copy-rest)/

const areHostsAsked = process.argv.includes('--hosts')
const areAllAsked = process.argv.includes('--all')
const words = process.argv.slice(2).filter((word) => word !== '--hosts' && word !== '--all')
const found = (await readdir(here, { recursive: true }))
  .filter((file) => file.endsWith('.test.ts') && !file.includes('node_modules'))
  .filter((file) => isOfHosts(file) === areHostsAsked)
  .filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  .toSorted((one, other) => rank(one) - rank(other) || (one < other ? -1 : 1))

const isLeftOut = (file: string): boolean =>
  areHostsAsked && !areAllAsked && words.length === 0 && lengthy.test(file)
const files = found.filter((file) => !isLeftOut(file))

const began = performance.now()
const folder = await mkdtemp(join(tmpdir(), 'ferry-tests-'))
const running = new Set<ChildProcess>()
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)
  process.once(signal, () => {
    for (const child of running) strike(child)
    rmSync(folder, { recursive: true, force: true })
    process.exit(code)
  })
const results: Tally[] = []
try {
  // To load a test file's thousand modules one by one takes longer than most of them run.
  await bundleAll(
    ['run-file.ts', ...files].map((file) => join('test', file)),
    folder,
  )
  for (const kind of ['quick', 'waiting', 'alone', 'hosts'] as const)
    results.push(
      ...(await runAll(
        files.filter((file) => kindOf(file) === kind),
        kinds[kind],
      )),
    )
} finally {
  await rm(folder, { recursive: true })
}
const passed = results.reduce((sum, tally) => sum + tally.passed, 0)
const failed = results.reduce((sum, tally) => sum + tally.failed, 0) + (files.length === 0 ? 1 : 0)
const leftOut = found
  .filter(isLeftOut)
  .map((file) => `${file}: it takes long; name it, or say --all`)
const notHere = [...results.flatMap((tally) => tally.notHere), ...leftOut]
if (files.length === 0) console.log(`No test file has ${words.join(' or ')} in its path.`)
console.log(`\nin ${Math.round((performance.now() - began) / 1000)} s`)
for (const why of notHere) console.log(`NOT RUN ${why}`)
console.log(
  `${passed} passed, ${failed} failed${notHere.length === 0 ? '' : `, ${notHere.length} not run`}`,
)
process.exitCode = failed === 0 ? 0 : 1

async function runAll(
  queue: readonly string[],
  { ms, atOnce }: { readonly ms: number; readonly atOnce: number },
) {
  const waiting = [...queue]
  const tallies: Tally[] = []
  const worker = async () => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift())
      tallies.push(await runFile(file, ms))
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
  return tallies
}

async function runFile(file: string, limitMs: number): Promise<Tally> {
  const isLong = isOfHosts(file)
  const from = performance.now()
  const load = loadNow()
  const child = fork(bundled('run-file.ts'), [bundled(file)], {
    execArgv: ['--enable-source-maps'],
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    detached: true,
  })
  running.add(child)
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding('utf8').on('data', (text: string) => {
      if (isLong) process.stdout.write(text)
      else output += text
    })

  let tally: Tally | undefined
  let trouble: string | undefined
  let timer = setTimeout(() => end(`took longer than ${limitMs / 1000} s`), limitMs)
  const end = (why: string) => {
    trouble = why
    strike(child)
  }
  child.on('message', (message: Tally) => {
    tally = message
    clearTimeout(timer)
    timer = setTimeout(() => end('left something running after its last test'), GRACE_MS)
  })
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
  running.delete(child)
  clearTimeout(timer)

  if (tally === undefined) trouble ??= `ended with ${code} before its tests did`
  else if (tally.passed + tally.failed + tally.notHere.length === 0)
    trouble ??= 'ran no test; is `.run()` forgotten?'
  const { passed, failed, notHere } = tally ?? { passed: 0, failed: 0, notHere: [] }
  const seconds = (performance.now() - from) / 1000
  const bad = failed > 0 || trouble !== undefined
  console.log(`${bad ? 'FAILED' : 'ok    '} ${file} · ${passed} passed · ${seconds.toFixed(1)} s`)
  if (trouble !== undefined) console.log(`       it ${trouble}`)
  if (bad && output !== '') console.log(output.trimEnd().replaceAll(/^/gm, '       '))
  if (isLong && !bad && notHere.length === 0)
    await keep({ suite: basename(file, '.test.ts'), tests: passed, seconds, load })
  return { passed, failed: failed + (trouble === undefined ? 0 : 1), notHere }
}

/** With the servers, coordinators and agents that it has started: they are of its process group. Guests are not, nor what moves them. */
function strike({ pid }: ChildProcess): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL')
  } catch {
    // It has ended by itself.
  }
}

function bundled(file: string): string {
  return join(folder, 'test', file.replace(/\.ts$/, '.mjs'))
}

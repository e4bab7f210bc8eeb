import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { duration } from '@ferry/coordinator/cli/words'
import { readTimeline } from '@ferry/coordinator/cli/explain'
import { DEFAULT_PORT, isFree } from '@ferry/coordinator/embedded/nats-server'
import { until } from '../until.ts'
import { realStage } from './real-stage.ts'
import { simulatedStage } from './simulated-stage.ts'
import type { Stage } from './stage.ts'

/**
 * `npm start`: a log, a coordinator, two hosts and one guest that never rests, on this machine. The guest is moved there
 * and back; then the world is looked at from outside, without asking Ferry.
 */
const ROOT = join(import.meta.dirname, '..', '..')
const isSimulated = process.argv.includes('--simulated')
const isTerminal = process.stdout.isTTY

const interrupted = new AbortController()
process.once('SIGINT', () => interrupted.abort())
process.once('SIGTERM', () => interrupted.abort())

say('Starting a log, a coordinator, two hosts and a guest ...')
const port = (await isFree(DEFAULT_PORT)) ? DEFAULT_PORT : 0
const stage = await (isSimulated ? simulatedStage(port) : realStage(port))
try {
  say(`The log is at ${stage.lab.server()}. web1 runs on rack1: ${stage.description}.`)
  await until('it to have worked a little', async () => (await stage.look()).count > 0)
  let before = await stage.look()
  const downtimes: string[] = []
  for (const [request, target] of [
    ['there', 'rack2'],
    ['back', 'rack1'],
  ] as const) {
    const id = `${request}-${process.pid}`
    await ferry('migrate', 'web1', '--to', target, '--request', id, '--wait')
    before = await check(stage, target, before.count)
    const timeline = await readTimeline(stage.lab.connection, id)
    const downtime = timeline.attempts.at(-1)?.downtime
    downtimes.push(`${request} ${downtime === undefined ? 'unknown' : duration(downtime.ms)}`)
  }
  say(`\nIt went there and back, and never ran twice. Downtimes: ${downtimes.join(', ')}.`)
  if (isTerminal) await stayUp(stage)
} catch (error) {
  // Ctrl-C ends the command that was under way as well; that is no failure.
  if (!interrupted.signal.aborted) throw error
} finally {
  await stage.close()
}

/** Asks the world, not Ferry: exactly one copy runs, where it should, with its memory right and its work going on. */
async function check({ look }: Stage, host: string, countBefore: number) {
  const seen = await look()
  say('\nLooked at from outside:')
  say(`  exactly one copy of web1 exists and runs, on ${seen.host}`)
  say(`  ${seen.fault ?? `every one of its ${seen.pages} pages is right`}`)
  say(`  it went on with its work: ${seen.count} ${seen.unit}, ${countBefore} before`)
  if (seen.host !== host || seen.fault !== undefined || seen.count <= countBefore)
    throw new Error('The guest is not what it should be.')
  return seen
}

/** Runs the command line, as a second terminal would. */
async function ferry(...words: string[]): Promise<void> {
  say(`\n$ ferry ${words.join(' ')}`)
  const server = ['--server', stage.lab.server()]
  const child = spawn(process.execPath, ['ferry.mjs', ...words, ...server], {
    cwd: ROOT,
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error(`ferry ${words[0]} ended with ${String(code)}.`)
}

async function stayUp({ lab }: Stage): Promise<void> {
  const where = port === DEFAULT_PORT ? '' : ` --server ${lab.server()}`
  say('\nAll of it stays up until Ctrl-C. In a second terminal, try:')
  for (const words of ['migrate web1 --wait', 'fleet', 'watch --from 1', 'doctor'])
    say(`  npm run --silent ferry -- ${words}${where}`)
  if (!interrupted.signal.aborted) await once(interrupted.signal, 'abort')
  say('')
}

function say(sentence: string): void {
  process.stdout.write(`${sentence}\n`)
}

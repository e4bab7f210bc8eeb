import { spawn } from 'node:child_process'
import { basename } from 'node:path'
import { Type } from 'typebox'
import type { Static } from 'typebox'
import { Name } from '@ferry/schemas/words'
import { Overdue, within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import type { FenceOutcome } from './decide/fence.ts'

/**
 * Turns hosts off with the commands that ClusterLabs' fence agents are, or others with their manners
 * (github.com/ClusterLabs/fence-agents, doc/FenceAgentAPI.md): options come as `key=value` lines on stdin, among them
 * `action` and `nodename`; `off` ends with 0 when the host is off for sure; `status` with 0 when it is on, with 2 when
 * it is off. An end that did not come in time is a failure.
 *
 * The commands are configured here and not on the host: whoever has to turn a host off cannot ask it how.
 */
export type Fences = {
  readonly hosts: ReadonlySet<string>
  /** Rejects when the signal broke it off; whatever else goes wrong is an outcome. */
  readonly turnOff: (host: string, signal: AbortSignal) => Promise<FenceOutcome>
}

/** One line each on stdin: a line break would let a value say more than it should. */
const line = '[^\\u0000-\\u001f\\u007f]*'
const Option = Type.Union([Type.String({ pattern: `^${line}$` }), Type.Number(), Type.Boolean()])
const strict = { additionalProperties: false }

const FenceCommand = Type.Object(
  {
    /** A program and its arguments. No shell reads them. */
    command: Type.Array(Type.String({ minLength: 1 }), { minItems: 1 }),
    /** For its stdin, where no list of processes shows them. They never stand in any log. */
    options: Type.Optional(Type.Record(Type.String({ pattern: '^[^\\s=#]+$' }), Option)),
    /** For each call. It is killed then, with all that it started. */
    limitMs: Type.Optional(Type.Integer({ minimum: 1 })),
  },
  strict,
)
type FenceCommand = Static<typeof FenceCommand>

/** `--fence`: a command for each host that can be turned off. */
export const FenceFile = Type.Record(Name, FenceCommand)
export type FenceFile = Static<typeof FenceFile>

export const noFences: Fences = {
  hosts: new Set(),
  turnOff: async (host) => {
    throw new Error(`there is no command to turn ${host} off`)
  },
}

const LIMIT_MS = 60_000

export function fenceCommands(file: FenceFile, clock: Clock): Fences {
  const commands = new Map(Object.entries(file))
  /** The last call for each host: two at once would confuse a switch that takes one at a time. */
  const turns = new Map<string, Promise<unknown>>()

  async function turnOff(host: string, how: FenceCommand, signal: AbortSignal) {
    const [program = ''] = how.command
    const by = (basename(program) || program).slice(-MOST_NAME)
    const off = await call(how, 'off', host, clock, signal)
    if (off.code !== 0) return { isOff: false, by, evidence: off.evidence }
    // The agent has made sure already; not all of them can be asked. But one that says "on" is believed.
    const status = await call(how, 'status', host, clock, signal)
    const evidence = `${off.evidence}; ${status.evidence}`
    return { isOff: status.code !== STATUS_ON, by, evidence }
  }

  return {
    hosts: new Set(commands.keys()),
    turnOff: async (host, signal) => {
      const how = commands.get(host)
      if (how === undefined) return noFences.turnOff(host, signal)
      const before = turns.get(host) ?? Promise.resolve()
      const mine = before.then(() => turnOff(host, how, signal))
      turns.set(
        host,
        mine.catch(() => {}),
      )
      return mine
    },
  }
}

const STATUS_ON = 0
const MOST_NAME = 128

type Called = { readonly code: number | undefined; readonly evidence: string }

/** One call, to its end or to its limit. */
async function call(
  { command, options = {}, limitMs = LIMIT_MS }: FenceCommand,
  action: 'off' | 'status',
  host: string,
  clock: Clock,
  signal: AbortSignal,
): Promise<Called> {
  signal.throwIfAborted()
  const [program = '', ...words] = command
  const began = clock.elapsed()
  let said = ''
  const tell = (end: string): string => {
    const lastLine = withoutValues(said, options).trim().split('\n').at(-1) ?? ''
    const took = `${((clock.elapsed() - began) / 1000).toFixed(1)} s`
    return `${action} ${end} after ${took}${lastLine === '' ? '' : `: ${lastLine.slice(0, MOST_TOLD)}`}`
  }
  const notStarted = (error: unknown): Called => {
    const why = error instanceof Error && 'code' in error ? String(error.code) : String(error)
    return { code: undefined, evidence: tell(`could not be started (${why})`) }
  }
  const child = spawned(program, words)
  if (child instanceof Error) return notStarted(child)
  const kill = () => {
    // Without a process id it never started, and its group is not ours.
    if (child.pid === undefined) return
    try {
      process.kill(-child.pid, 'SIGKILL')
    } catch {
      // Gone already.
    }
    child.stderr.destroy()
  }
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-MOST_KEPT)
  })
  // One that does not read its options has said so by its exit status.
  child.stdin.on('error', () => {})
  child.stdin.end(linesOf({ nodename: host, ...options, action }))

  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  signal.addEventListener('abort', kill, { once: true })
  try {
    const code = await within(clock, limitMs, action, ended)
    signal.throwIfAborted()
    return code === null
      ? { code: undefined, evidence: tell(`was ended by ${child.signalCode}`) }
      : { code, evidence: tell(`ended with ${code}`) }
  } catch (error) {
    signal.throwIfAborted()
    if (error instanceof Overdue) return { code: undefined, evidence: tell('had not ended') }
    return notStarted(error)
  } finally {
    signal.removeEventListener('abort', kill)
    kill()
    ended.catch(() => {})
  }
}

/** Of most programs that cannot be started the process tells later; of some, `spawn` throws at once. */
function spawned(program: string, words: readonly string[]) {
  try {
    // In a process group of its own, so that what it has started ends with it.
    return spawn(program, words, { stdio: ['pipe', 'ignore', 'pipe'], detached: true })
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error))
  }
}

/** Of what it says on stderr. */
const MOST_KEPT = 8192
const MOST_TOLD = 300

const linesOf = (options: NonNullable<FenceCommand['options']>): string =>
  Object.entries(options)
    .map(([key, value]) => `${key}=${value}\n`)
    .join('')

/**
 * What a command says may repeat what it was given: each value is replaced by its name, the longest first. Shorter
 * ones than this are switches and numbers, and no secrets.
 */
function withoutValues(text: string, options: NonNullable<FenceCommand['options']>): string {
  return Object.entries(options)
    .map(([key, value]) => ({ key, value: String(value) }))
    .filter(({ value }) => value.length >= SHORTEST_SECRET)
    .toSorted((a, b) => b.value.length - a.value.length)
    .reduce((left, { key, value }) => left.replaceAll(value, `<${key}>`), text)
}

const SHORTEST_SECRET = 4

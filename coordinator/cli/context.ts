import { randomBytes } from 'node:crypto'
import { homedir, hostname, userInfo } from 'node:os'
import { Option } from 'commander'
import type { Command } from 'commander'
import { Invalid, parse } from '@ferry/schemas/parse'
import { Answer } from '@ferry/schemas/request'
import type { Static, TSchema } from 'typebox'
import { systemClock } from '@ferry/events/clock'
import { NotDurable, durabilities } from '@ferry/events/durability'
import type { Durability } from '@ferry/events/durability'
import { LogUnavailable } from '@ferry/events/log'
import { connect } from '@ferry/events/log/connect'
import type { Connection } from '@ferry/events/log/connect'
import { ask } from '@ferry/events/log/requests'
import { levels } from '@ferry/events/say'
import { DEFAULT_PORT } from '../embedded/nats-server.ts'

/** What every verb of the command line shares: where the log is, how to print, and how to end. */

/** How a command ends, for scripts. */
export const exits = {
  done: 0,
  /** What was asked for was tried and did not happen: a migration that was abandoned, a check that failed. */
  failed: 1,
  /** The words of the command, or a file that it names, are wrong. */
  usage: 2,
  /** A coordinator said no; the reason is printed. */
  refused: 3,
  /** The log, or a coordinator, does not answer. */
  unavailable: 4,
} as const

/** Ends the command with one sentence and a code. */
export class Exit extends Error {
  override readonly name = 'Exit'
  readonly code: number

  constructor(code: number, sentence = '', options?: ErrorOptions) {
    super(sentence, options)
    this.code = code
  }
}

export type LogOptions = { readonly server: string[]; readonly credentials?: string }

const DEFAULT_SERVER = `nats://127.0.0.1:${DEFAULT_PORT}`
const unsaid = [DEFAULT_SERVER]

const DEFAULT_CONNECT_MS = 5000
const ANSWER_MS = 10_000

export function withLogOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '-s, --server <url>',
        'where the log is; several with commas between, or given several times',
      )
        .env('FERRY_SERVER')
        .default(unsaid, DEFAULT_SERVER)
        .argParser((value: string, before: string[]) => [
          ...(before === unsaid ? [] : before),
          ...value.split(','),
        ]),
    )
    .addOption(new Option('--credentials <file>', 'NATS credentials').env('FERRY_CREDENTIALS'))
}

export type DurabilityOption = { readonly durability: Durability }

/** For the verbs that decide on what the log says. */
export const withDurability = (command: Command): Command =>
  command.addOption(
    new Option(
      '--durability <level>',
      'refuse to run on a log that is less: synced survives power cuts, replicated the loss of a server',
    )
      .choices(durabilities)
      .default('any'),
  )

/** For the verbs that run until they are told to end. */
export const withLogLevel = (command: Command): Command =>
  command.addOption(
    new Option('--log-level <level>', 'how much it says').choices(levels).default('info'),
  )

export const logAddress = ({ server, credentials }: LogOptions) => ({
  servers: server,
  ...(credentials === undefined ? {} : { credentialsFile: credentials }),
})

/** Connects, does the work, and always disconnects. */
export async function withConnection<T>(
  options: LogOptions,
  work: (connection: Connection) => Promise<T>,
): Promise<T> {
  const connection = await connect(
    { ...logAddress(options), name: 'ferry command line' },
    systemClock,
    {
      patienceMs: DEFAULT_CONNECT_MS,
    },
  )
  try {
    return await work(connection)
  } finally {
    await connection.close()
  }
}

/**
 * Asks a coordinator, and checks what it answers.
 *
 * @throws {Exit} when the answer does not fit: whoever asked has done nothing wrong.
 */
export async function request<Shape extends TSchema>(
  { nc }: Connection,
  verb: string,
  body: object,
  shape: Shape,
): Promise<Static<Shape>> {
  const answer = await ask(nc, systemClock, verb, body, ANSWER_MS)
  try {
    return parse(shape, answer, 'the answer')
  } catch (error) {
    if (!(error instanceof Invalid)) throw error
    const sentence = `The coordinator's answer to ${verb} was not understood: ${error.message}. It may be of another release.`
    throw new Exit(exits.failed, sentence, { cause: error })
  }
}

/**
 * Asks for something to be recorded, and prints that it was: the answer as JSON, or a sentence.
 *
 * @throws {Exit} when it is refused, with the reason.
 */
export async function record(
  connection: Connection,
  verb: string,
  wish: object,
  isJson: boolean | undefined,
  sentence: (position: number) => string,
): Promise<void> {
  const answer = await request(connection, verb, wish, Answer)
  if (isJson === true) printJson(answer)
  if (!answer.accepted) throw new Exit(exits.refused, isJson === true ? '' : answer.sentence)
  if (isJson !== true) print(sentence(answer.position))
}

/** A new request id: the day, so that people find it again, and enough chance. */
export const newId = (): string =>
  `${new Date().toISOString().slice(0, 10).replaceAll('-', '')}-${randomBytes(4).toString('hex')}`

export const whoAmI = (): string =>
  `${known(() => userInfo().username) ?? `uid${process.getuid?.()}`}@${hostname()}`

/** Where what is kept for this user stands. */
export const home = (): string => known(homedir) ?? '/'

/** Node throws where no passwd knows the user, as in many containers. */
function known(ask: () => string): string | undefined {
  try {
    return ask()
  } catch {
    return undefined
  }
}

export const print = (text: string): void => void process.stdout.write(`${text}\n`)
export const printJson = (value: unknown): void => print(JSON.stringify(value, null, 2))
export const complain = (sentence: string): void => void process.stderr.write(`${sentence}\n`)

/** A signal for the keyboard's interrupt and for the one that service managers send. */
export function untilInterrupted(): AbortSignal {
  const stop = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM'] as const)
    process.once(name, () => stop.abort(new Interrupted()))
  return stop.signal
}

/** A signal for when nobody reads what is printed any more. */
export function untilUnread(): AbortSignal {
  const stop = new AbortController()
  process.stdout.once('error', () => stop.abort())
  return stop.signal
}

/** Whoever reads may have seen enough, as `head` has: that is no failure. */
export function unlessUnread(error: Error): void {
  if (!('code' in error) || error.code !== 'EPIPE') throw error
}

/** It was told to end, and ended: also where it had not got far. */
class Interrupted extends Error {
  override readonly name = 'Interrupted'
}

/** Runs a verb; whatever goes wrong becomes one sentence on stderr and a code, never a stack trace. */
export async function ending(work: () => Promise<number | void>): Promise<void> {
  try {
    process.exitCode = (await work()) ?? exits.done
  } catch (error) {
    const [code, sentence] = verdictOn(error)
    if (sentence !== '') complain(sentence)
    if (process.env.FERRY_DEBUG !== undefined && error instanceof Error) complain(error.stack ?? '')
    process.exitCode = code
  }
}

function verdictOn(error: unknown): [number, string] {
  if (error instanceof Exit) return [error.code, error.message]
  if (error instanceof Interrupted) return [exits.done, '']
  if (error instanceof LogUnavailable) return [exits.unavailable, `${capital(error.message)}.`]
  if (error instanceof NotDurable) return [exits.refused, capital(error.message)]
  if (error instanceof Invalid) return [exits.usage, `${capital(error.message)}.`]
  if (error instanceof SyntaxError) return [exits.usage, `That is not JSON: ${error.message}.`]
  if (error instanceof Error && 'code' in error && error.code === 'ENOENT' && 'path' in error)
    return [exits.usage, `There is no file ${String(error.path)}.`]
  if (error instanceof Error) return [exits.failed, `${capital(error.message)}.`]
  return [exits.failed, String(error)]
}

const capital = (text: string) => text.charAt(0).toUpperCase() + text.slice(1)

/** What stands behind an option, as a number. */
export function number(option: string, text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value))
    throw new Exit(exits.usage, `${option} ${text} is not a number.`)
  return value
}

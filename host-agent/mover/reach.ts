import { readFile } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { parse } from '@ferry/schemas/parse'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { readLines } from '../lines.ts'
import { FromMover, filesIn } from './words.ts'
import type { FromAgent } from './words.ts'

/** A mover that lives, as an agent holds it by its socket. */
export type Mover = {
  readonly folder: string
  /** In the wire's form. */
  readonly command: string
  readonly hearsPolicy: boolean
  /** Resolves when it has ended, or the agent let go of it. `undefined`: without a word about what came of it. */
  readonly ended: Promise<Outcome | undefined>
  readonly say: (word: FromAgent) => void
  /** Also one that cannot be killed has ended for this agent. */
  readonly kill: () => Promise<void>
  /** It goes on by itself. */
  readonly letGo: () => void
}

/** What it answered, if the verdict left anything to say. */
export type Outcome = { readonly fact: string | undefined }

type Hello = Extract<FromMover, { command: string }>

const HELLO_MS = 3000

/** @returns undefined when no mover is there; one that lives and says nothing is killed. */
export async function reach(folder: string, clock: Clock): Promise<Mover | undefined> {
  const socket = createConnection(filesIn(folder).socket)
  let outcome: Outcome | undefined
  let greet: (hello: Hello) => void = () => {}
  const greeted = new Promise<Hello>((resolve) => {
    greet = resolve
  })
  const ended = new Promise<Outcome | undefined>((resolve) => {
    socket.once('close', () => resolve(outcome))
  })
  socket.on('error', () => {})
  readLines(
    socket,
    (line) => {
      const word = parse(FromMover, JSON.parse(line), 'what a mover says')
      if ('command' in word) greet(word)
      else outcome = { fact: word.fact }
    },
    () => socket.destroy(),
  )
  const kill = async () => {
    await killIn(folder)
    socket.destroy()
  }
  const here = Promise.race([greeted, ended.then(() => undefined)])
  const hello = await within(clock, HELLO_MS, 'its hello', here).catch(async () => {
    await kill()
    return undefined
  })
  if (hello === undefined) return undefined
  const { command, hearsPolicy = false } = hello
  return {
    folder,
    command,
    hearsPolicy,
    ended,
    say: (word) => void socket.write(`${JSON.stringify(word)}\n`),
    kill,
    letGo: () => socket.destroy(),
  }
}

/** A pid may belong to another process by now: only one that was started as a mover is one. */
async function killIn(folder: string): Promise<void> {
  try {
    const pid = Number(await readFile(filesIn(folder).pid, 'utf8'))
    const words = await readFile(`/proc/${pid}/cmdline`, 'utf8')
    if (words.includes('mover.mjs')) process.kill(pid, 'SIGKILL')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code !== 'ENOENT' && code !== 'ESRCH') throw error
  }
}

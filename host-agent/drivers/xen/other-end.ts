import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { Readable } from 'node:stream'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { lastLines } from './xl.ts'

/** An xl that this process plays the other end for. It leads a process group: its helper ends with it. */
export type Began = {
  readonly child: ChildProcess
  /** Resolves with its status, or the signal that ended it. */
  readonly ended: Promise<number | string>
  /** What it complained of. */
  readonly complaint: () => string
  /** Ends this xl alone, at once: what it has made stays as it is. */
  readonly kill: () => Promise<void>
}

const PID = 'xl.pid'
const ENDS_MS = 20_000
const LOOK_AGAIN_MS = 20

export async function begin(
  folder: string,
  words: readonly string[],
  stdio: ('pipe' | 'ignore')[],
  clock: Clock,
): Promise<Began> {
  const child = spawn('xl', words, { detached: true, stdio })
  let stderr = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-4096)
  })
  const ended = new Promise<number | string>((resolve) => {
    child.once('exit', (code, signal) => resolve(code ?? signal ?? 'nothing'))
    child.once('error', (error) => {
      stderr += error.message
      resolve('nothing')
    })
  })
  try {
    await writeFile(join(folder, PID), String(child.pid), { mode: 0o600 })
  } catch (error) {
    // Nobody would know of it, and it waits for its other end for ever.
    child.kill('SIGKILL')
    throw error
  }
  return {
    child,
    ended,
    complaint: () => lastLines(stderr),
    kill: async () => {
      child.kill('SIGKILL')
      await within(clock, ENDS_MS, 'the end of xl', ended)
      await rm(join(folder, PID), { force: true })
    },
  }
}

/** Whether an xl is still at work on the guest of this folder, whoever began it. */
export async function isAtWork(folder: string): Promise<boolean> {
  return (await pidIn(folder)) !== undefined
}

/**
 * Waits until nobody is at work on a guest any more. An xl whose other end is gone ends by itself, and leaves its guest
 * in order; one that does not is ended, with its helper.
 */
export async function overIn(folder: string, clock: Clock, patienceMs = ENDS_MS): Promise<void> {
  const began = clock.elapsed()
  for (;;) {
    const pid = await pidIn(folder)
    if (pid === undefined) return rm(join(folder, PID), { force: true })
    const waitedMs = clock.elapsed() - began
    if (waitedMs > patienceMs + ENDS_MS) throw new Error(`xl (${pid}) does not end`)
    if (waitedMs >= patienceMs) endGroup(pid)
    await clock.sleep(LOOK_AGAIN_MS)
  }
}

function endGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}

/** A pid may belong to another process by now. */
async function pidIn(folder: string): Promise<number | undefined> {
  try {
    const pid = Number(await readFile(join(folder, PID), 'utf8'))
    const [program = ''] = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0')
    return basename(program) === 'xl' ? pid : undefined
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT' || code === 'ESRCH') return undefined
    throw error
  }
}

/** Reads a stream piece by piece, as its reader has room: not read from, it does not flow. @returns undefined at its end. */
export function piecesOf(stream: Readable): () => Promise<Buffer | undefined> {
  let isOver = false
  let wake = () => {}
  const over = () => {
    isOver = true
    wake()
  }
  stream.on('end', over).on('close', over).on('error', over)
  stream.on('readable', () => wake())
  return async () => {
    for (;;) {
      const piece: unknown = stream.read()
      if (piece instanceof Buffer) return piece
      if (isOver) return undefined
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }
}

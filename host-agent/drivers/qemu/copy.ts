import { execFile } from 'node:child_process'
import { mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Type } from 'typebox'
import type { Static } from 'typebox'
import { parse } from '@ferry/schemas/parse'
import type { Clock } from '@ferry/events/clock'
import { Definition, qemuArguments } from './definition.ts'

/**
 * One copy of a guest on this host: a QEMU process of its own, and a folder that says what it is. Nothing about it is
 * kept in the agent, so that the next agent finds it as it is.
 *
 *     guests/<vm>/guest.json     what it was started as
 *                 agent.qmp      the agent's monitor
 *                 mover.qmp      the same for whoever moves it   operator.qmp   and for people
 *                 image.sock     where its image goes in or out
 *                 qemu.pid
 */
const GuestFile = Type.Object({
  vm: Type.String(),
  definition: Definition,
  /** Stands there as long as the copy has never been started: the attempt that it was made for. */
  receives: Type.Optional(Type.Object({ migration: Type.String(), attempt: Type.Integer() })),
})
export type GuestFile = Static<typeof GuestFile>

export type Copy = {
  readonly folder: string
  readonly file: GuestFile
  readonly pid: number
}

export const socketsIn = (folder: string) => ({
  agent: join(folder, 'agent.qmp'),
  mover: join(folder, 'mover.qmp'),
  operator: join(folder, 'operator.qmp'),
  image: join(folder, 'image.sock'),
})

/** What QEMU said when it would not start. */
export class QemuNotStarted extends Error {
  override readonly name = 'QemuNotStarted'
  readonly said: string

  constructor(said: string, options?: ErrorOptions) {
    super(`QEMU did not start: ${said}`, options)
    this.said = said
  }
}

const START_MS = 30_000

/** Starts QEMU, paused; it has left its parent and has its monitors open when this resolves. */
export async function launch(
  binary: string,
  folder: string,
  file: GuestFile,
  limitMs = START_MS,
): Promise<Copy> {
  await rm(folder, { recursive: true, force: true })
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const pidFile = join(folder, 'qemu.pid')
  await describe(folder, file)
  const copy = { sockets: socketsIn(folder), pidFile }
  const words = qemuArguments(file.vm, file.definition, copy, file.receives !== undefined)
  try {
    // `-daemonize`: the parent ends when the child is ready, with the child's complaint if it is not.
    await promisify(execFile)(binary, words, { timeout: limitMs, killSignal: 'SIGKILL' })
  } catch (cause) {
    // Its child may still be getting ready; nobody would find it by its folder any more.
    const lost = await findLost(folder)
    if (lost !== undefined) signal(lost, 'SIGKILL')
    await rm(folder, { recursive: true, force: true })
    throw new QemuNotStarted(whyNotStarted(binary, cause, limitMs), { cause })
  }
  return { folder, file, pid: Number(await readFile(pidFile, 'utf8')) }
}

/** QEMU's own words, or ours where it had none; never its command line, which may hold a secret. */
function whyNotStarted(binary: string, cause: unknown, limitMs: number): string {
  const about: object = cause instanceof Error ? cause : {}
  const said = 'stderr' in about ? String(about.stderr).trim().slice(-1000) : ''
  if (said !== '') return said
  if ('killed' in about && about.killed === true)
    return `${binary} was not ready within ${limitMs / 1000} s`
  const code = 'code' in about ? about.code : undefined
  if (code === 'ENOENT') return `${binary} is not here; on Debian: apt-get install qemu-system-x86`
  if (typeof code === 'string') return `${binary} cannot be run: ${code}`
  const signal = 'signal' in about && typeof about.signal === 'string' ? about.signal : undefined
  return signal === undefined
    ? `${binary} ended with code ${String(code)}, and said nothing`
    : `${binary} was ended by ${signal}, and said nothing`
}

/** Writes what a copy is; whole or not at all. */
export async function describe(folder: string, file: GuestFile): Promise<void> {
  const path = join(folder, 'guest.json')
  await writeFile(`${path}.new`, `${JSON.stringify(file, null, 2)}\n`, { mode: 0o600 })
  await rename(`${path}.new`, path)
}

/** The mark goes when the copy is started, and another process may have started it. `undefined`: the copy is gone. */
export async function describedNow(copy: Copy): Promise<Copy | undefined> {
  if (copy.file.receives === undefined) return copy
  try {
    return { ...copy, file: await read(copy.folder) }
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

async function read(folder: string): Promise<GuestFile> {
  const path = join(folder, 'guest.json')
  return parse(GuestFile, JSON.parse(await readFile(path, 'utf8')), path)
}

/** The copy in a folder whose QEMU lives. */
export async function findCopy(folder: string): Promise<Copy | undefined> {
  try {
    const file = await read(folder)
    const pid = Number(await readFile(join(folder, 'qemu.pid'), 'utf8'))
    if (await isQemuOf(pid, folder)) return { folder, file, pid }
  } catch (error) {
    if (!isMissing(error)) throw error
  }
  return undefined
}

export async function findCopies(guests: string): Promise<Copy[]> {
  const names = await readdir(guests).catch((error: unknown) => {
    if (isMissing(error)) return []
    throw error
  })
  const found = await Promise.all(names.map((name) => findCopy(join(guests, name))))
  return found.filter((copy) => copy !== undefined)
}

/** A QEMU that runs, and whose folder does not lead to it any more: somebody has wiped that. @returns its pid. */
export async function findLost(folder: string): Promise<number | undefined> {
  const names = await readdir('/proc')
  const pids = names.filter((name) => /^\d+$/.test(name)).map(Number)
  const are = await Promise.all(pids.map((pid) => isQemuOf(pid, folder)))
  return pids.find((_, nth) => are[nth])
}

const GONE_POLL_MS = 20

/** Ends a copy's QEMU at once and for good, and takes its folder away. */
export async function kill(copy: Copy, clock: Clock): Promise<void> {
  while (await isQemuOf(copy.pid, copy.folder)) {
    signal(copy.pid, 'SIGKILL')
    await clock.sleep(GONE_POLL_MS)
  }
  await rm(copy.folder, { recursive: true, force: true })
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}

/** A pid may be given to another process: only one whose command line names this very folder is ours. */
async function isQemuOf(pid: number, folder: string): Promise<boolean> {
  try {
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8')
    return line.split('\0').includes(join(folder, 'qemu.pid'))
  } catch (error) {
    if (isMissing(error)) return false
    throw error
  }
}

const isMissing = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH')

import { spawn } from 'node:child_process'
import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Daemon } from './daemon.ts'
import type { Libvirt } from './rpc.ts'

/**
 * libvirtd forgets that a guest was sent away as soon as the connection by which it was sent is gone, and then the guest
 * can only be ended as any other: its disks would be labelled and owned anew while the target uses them. So a small
 * process, which outlives whoever sent the guest, keeps that connection open until the guest has been released or resumed.
 */
/** In the words of every holder, also of those that an agent of an earlier release has made. */
const MARKER = '86413'
/** A hundred years: a disk may be copied for days. */
const HELD_S = `31536${MARKER}`
const PID = 'holder.pid'

export type Holder = {
  /** From now on it outlives this process, until the guest in that folder is let go of. */
  readonly stay: (folder: string) => Promise<void>
  readonly close: () => void
}

/** Until it is told to stay it ends with this process, which holds the other end of what it reads. */
const SCRIPT = `read word && exec sleep ${HELD_S}`

/** @param descriptor the connection's. */
export async function makeHolder(descriptor: number): Promise<Holder> {
  const child = spawn('sh', ['-c', SCRIPT], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore', descriptor],
  })
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve)
    child.once('error', reject)
  })
  child.unref()
  const { stdin } = child
  if (stdin === null) throw new Error('the holder has nothing to read')
  stdin.on('error', () => {})
  return {
    stay: async (folder) => {
      try {
        await letGo(folder)
        await mkdir(folder, { recursive: true, mode: 0o700 })
        await writeFile(join(folder, PID), String(child.pid), { mode: 0o600 })
      } catch (error) {
        stdin.end()
        throw error
      }
      stdin.end('stay\n')
    },
    close: () => void stdin.end(),
  }
}

/** A connection that can be kept open behind this process; where its descriptor is not known, without a holder. */
export type Held = { readonly libvirt: Libvirt; readonly holder: Holder | undefined }

export async function openHeld(daemon: Pick<Daemon, 'fresh'>): Promise<Held> {
  const libvirt = await daemon.fresh()
  const descriptor = libvirt.descriptor()
  try {
    return { libvirt, holder: descriptor === undefined ? undefined : await makeHolder(descriptor) }
  } catch (error) {
    libvirt.close()
    throw error
  }
}

export async function letGo(folder: string): Promise<void> {
  const file = join(folder, PID)
  try {
    const pid = Number(await readFile(file, 'utf8'))
    // A pid may be given to another process.
    const words = await readFile(`/proc/${pid}/cmdline`, 'utf8')
    if (words.includes(MARKER)) process.kill(pid, 'SIGKILL')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code !== 'ENOENT' && code !== 'ESRCH') throw error
  }
  await rm(file, { force: true })
}

export const isHeld = (folder: string): Promise<boolean> =>
  stat(join(folder, PID)).then(
    () => true,
    () => false,
  )

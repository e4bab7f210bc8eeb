import { spawn } from 'node:child_process'
import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/**
 * libvirtd forgets that a guest was sent away as soon as the connection by which it was sent is gone, and then the guest
 * can only be ended as any other: its disks would be labelled and owned anew while the target uses them. So a small
 * process, which outlives whoever sent the guest, keeps that connection open until the guest has been released or resumed.
 */
const HELD_S = '86413'
const PID = 'holder.pid'

export async function hold(folder: string, descriptor: number): Promise<void> {
  await letGo(folder)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const child = spawn('sleep', [HELD_S], {
    detached: true,
    stdio: ['ignore', 'ignore', 'ignore', descriptor],
  })
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve)
    child.once('error', reject)
  })
  child.unref()
  await writeFile(join(folder, PID), String(child.pid), { mode: 0o600 })
}

export async function letGo(folder: string): Promise<void> {
  const file = join(folder, PID)
  try {
    const pid = Number(await readFile(file, 'utf8'))
    // A pid may be given to another process.
    const words = await readFile(`/proc/${pid}/cmdline`, 'utf8')
    if (words.split('\0')[1] === HELD_S) process.kill(pid, 'SIGKILL')
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

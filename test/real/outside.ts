import { readFile, readdir, readlink, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { connectQmp } from '@ferry/host-agent/drivers/qemu/qmp'
import type { Qmp } from '@ferry/host-agent/drivers/qemu/qmp'
import { systemClock } from '@ferry/events/clock'
import { COUNTER_AT, PAGE_BYTES } from '../guest/boot-sector.ts'
import type { GuestProgram } from '../guest/boot-sector.ts'
import { firstBytesOf, sweepFault } from '../guest/memory.ts'

/** The world looked at from outside, without asking Ferry: processes, and QEMU's own word through a monitor of our own. */
export type QemuProcess = { readonly pid: number; readonly folder: string; readonly status: string }

/** Every QEMU whose files lie under a folder, and what it says that it is doing. */
export async function qemusUnder(root: string): Promise<QemuProcess[]> {
  const found: QemuProcess[] = []
  for (const name of await readdir('/proc')) {
    const pid = Number(name)
    if (!Number.isInteger(pid)) continue
    const folder = await folderOf(pid, root)
    if (folder !== undefined) found.push({ pid, folder, status: await statusIn(folder) })
  }
  return found
}

/** The processes that move guests under a folder, and those that wait for one to move. */
export async function moversUnder(root: string): Promise<number[]> {
  const found: number[] = []
  for (const name of await readdir('/proc')) {
    const line = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')
    const [, program, state] = line.split('\0')
    if (program?.endsWith('/mover.mjs') === true && state?.startsWith(root) === true)
      found.push(Number(name))
  }
  return found
}

async function folderOf(pid: number, root: string): Promise<string | undefined> {
  try {
    if (!(await readlink(`/proc/${pid}/exe`)).includes('qemu')) return undefined
    const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0')
    const file = words[words.indexOf('-pidfile') + 1]
    return file?.startsWith(root) === true ? join(file, '..') : undefined
  } catch {
    // It ended while we looked.
    return undefined
  }
}

/** Asks through the operator's monitor, which no agent uses. */
export async function withMonitor<T>(folder: string, work: (qmp: Qmp) => Promise<T>): Promise<T> {
  const qmp = await connectQmp(join(folder, 'operator.qmp'), systemClock)
  try {
    return await work(qmp)
  } finally {
    qmp.close()
  }
}

/** The pauses of one guest, as its QEMU tells them. Nobody else gets a word with the operator's monitor meanwhile. */
export type Pauses = {
  /** Resolves when the guest is paused for the first time. */
  readonly first: Promise<void>
  /** The lengths of those that ended here, in milliseconds by QEMU's clock. */
  readonly ended: () => readonly number[]
  readonly close: () => void
}

export async function watchPauses(folder: string): Promise<Pauses> {
  const qmp = await connectQmp(join(folder, 'operator.qmp'), systemClock)
  const lengths: number[] = []
  let pausedAt: number | undefined
  const first = new Promise<void>((resolve) => {
    qmp.onEvent(({ event, at }) => {
      if (event === 'STOP') {
        pausedAt ??= at
        resolve()
      }
      if (event === 'RESUME' && pausedAt !== undefined) {
        lengths.push(at - pausedAt)
        pausedAt = undefined
      }
    })
  })
  return { first, ended: () => lengths, close: qmp.close }
}

/** What QEMU says about sending the guest away. */
export async function migrationStatusIn(folder: string): Promise<string | undefined> {
  const answer = await withMonitor(folder, (qmp) => qmp.execute('query-migrate'))
  return (answer as { status?: string }).status
}

async function statusIn(folder: string): Promise<string> {
  try {
    const answer = (await withMonitor(folder, (qmp) => qmp.execute('query-status'))) as {
      status: string
    }
    return answer.status
  } catch {
    return 'silent'
  }
}

export type Memory = { readonly fault: string | undefined; readonly sweeps: number }

/** Stops the guest, reads its range and its counter, and lets it go on if it ran. */
export async function readMemory(
  folder: string,
  { fromByte, toByte }: GuestProgram,
): Promise<Memory> {
  return withMonitor(folder, async (qmp) => {
    const { status } = (await qmp.execute('query-status')) as { status: string }
    if (status === 'running') await qmp.execute('stop')
    try {
      const dump = await save(qmp, folder, fromByte, toByte - fromByte)
      const counter = await save(qmp, folder, COUNTER_AT, 4)
      return { fault: sweepFault(firstBytesOf(dump, PAGE_BYTES)), sweeps: counter.readUInt32LE(0) }
    } finally {
      if (status === 'running') await qmp.execute('cont')
    }
  })
}

/** Whether the guest is past its BIOS, which leaves traces where it counts, and has swept its range once. */
export async function hasSwept(folder: string, { toByte }: GuestProgram): Promise<boolean> {
  const last = await withMonitor(folder, (qmp) => save(qmp, folder, toByte - PAGE_BYTES, 1))
  return last[0] !== 0
}

/** How many sweeps the guest has made: one place in its memory, for which it need not be stopped. */
export async function readSweeps(folder: string): Promise<number> {
  const counter = await withMonitor(folder, (qmp) => save(qmp, folder, COUNTER_AT, 4))
  return counter.readUInt32LE(0)
}

async function save(qmp: Qmp, folder: string, val: number, size: number): Promise<Buffer> {
  const filename = join(folder, `dump-${process.pid}`)
  await qmp.execute('pmemsave', { val, size, filename })
  const dump = await readFile(filename)
  await rm(filename)
  return dump
}

import { access } from 'node:fs/promises'
import { isAbsolute } from 'node:path'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { CopyFailed } from '../../driver.ts'
import { onDisk } from '../whole-file.ts'
import type { Config } from './listing.ts'

/** What a guest's disks lie on: files and devices of dom0, or whatever else the script that attaches them finds. */
export const disksOf = ({ disks = [] }: Config): string[] =>
  disks.flatMap(({ pdev_path: target }) => target ?? [])

/** @returns the first of these files that this host does not see; what is no path (`iqn...`, DRBD's `r0`) is a script's to find. */
export async function missingOf(targets: readonly string[]): Promise<string | undefined> {
  for (const path of targets.filter(isAbsolute))
    try {
      await access(path)
    } catch {
      return path
    }
  return undefined
}

/**
 * Has dom0 write out what it holds of a paused guest's disks. A raw file is attached by a loop device, for which Xen's script
 * asks no direct I/O (`block` of 4.17): what the guest has written waits in dom0's memory, and the target reads the storage.
 *
 * @throws {CopyFailed} when it cannot: the guest must run on here.
 */
export async function writeOut(targets: readonly string[], clock: Clock): Promise<void> {
  const all = Promise.all(targets.filter(isAbsolute).map(onDisk))
  try {
    await within(clock, WRITTEN_OUT_MS, 'dom0 writing out the disks', all)
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause)
    throw new CopyFailed({ type: 'HypervisorFailed', message }, { cause })
  }
}

const WRITTEN_OUT_MS = 60_000

import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { putPrograms } from './programs.ts'
import { openFarDriver } from './xen-driver.ts'
import type { FarDriver } from './xen-driver.ts'
import { defineGuest } from './xen-guest.ts'
import type { XenGuest } from './xen-guest.ts'
import { openXenHosts } from './xen-hosts.ts'
import type { XenHosts, XenTool } from './xen-hosts.ts'

/** Two hosts, and Ferry's driver in each, which is called from here: no agents and no log. */
export type XenSeats = {
  readonly hosts: XenHosts
  readonly source: FarDriver
  readonly target: FarDriver
  readonly define: (vm: string, guest: XenGuest) => Promise<void>
  readonly close: () => Promise<void>
}

export const names = ['source', 'target'] as const
/** What takes a second on iron. */
export const PATIENCE_MS = 240_000

export async function openXenSeats(tool: XenTool): Promise<XenSeats> {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-'))
  const definitions = join(folder, 'vms')
  const where = { programs: join(folder, 'programs'), definitions, tool }
  let hosts: XenHosts | undefined
  const close = async () => {
    await hosts?.close()
    await rm(folder, { recursive: true })
  }
  try {
    await mkdir(definitions)
    await putPrograms(['test/lab/xen-seat.ts'], where.programs)
    hosts = await openXenHosts(folder, names)
    if (tool === 'libxl') await Promise.all(names.map(hosts.startLibvirt))
    return {
      hosts,
      source: await openFarDriver(hosts, 'source', where),
      target: await openFarDriver(hosts, 'target', where),
      define: (vm, guest) => defineGuest(definitions, tool, vm, guest),
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

import { randomBytes } from 'node:crypto'
import { mkdir, readFile } from 'node:fs/promises'
import { totalmem } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { findings } from '@ferry/events/durability'
import { watermarkFile } from '@ferry/events/log/watermark-file'
import { sayChecks } from '@ferry/events/say'
import type { Say } from '@ferry/events/say'
import { runAgent } from './agent.ts'
import type { Driver } from './driver.ts'
import { connectToLog, stayReady } from './edges.ts'
import { openMovers } from './mover/movers.ts'
import { libvirtDriver } from './drivers/libvirt/driver.ts'
import { probeLibvirt } from './drivers/libvirt/probe.ts'
import { libxlDriver } from './drivers/libxl/driver.ts'
import { libxlHostOf } from './drivers/libxl/host-of.ts'
import { probeLibxl } from './drivers/libxl/probe.ts'
import { qemuDriver } from './drivers/qemu/driver.ts'
import { probeQemu } from './drivers/qemu/probe.ts'
import { simulatedDriver } from './drivers/simulated/driver.ts'
import { xenDriver } from './drivers/xen/driver.ts'
import { openNotes } from './drivers/xen/notes.ts'
import { probeXen } from './drivers/xen/probe.ts'
import { openXl } from './drivers/xen/xl.ts'
import { hostKey } from './keys.ts'
import { lockDirectory } from './lock.ts'
import { isLibxl, libvirtPlaces, xenPlaces } from './settings.ts'
import type { HostFile } from './settings.ts'
import { tlsWire } from './transfer/tls-wire.ts'

/** One agent on the real edges: the clock, the log's server, this host's hypervisor and files. */
export async function agentOnThisHost(
  settings: HostFile,
  say: Say,
  logLevel: string,
  signal: AbortSignal,
): Promise<void> {
  const {
    host,
    durability = 'any',
    stateDirectory,
    listen,
    address,
    bandwidthBytesPerSecond,
  } = settings
  stayReady()
  await mkdir(stateDirectory, { recursive: true, mode: 0o700 })
  const unlock = await lockDirectory(stateDirectory)
  try {
    const driver = await driverOf(settings)
    const key = await hostKey(join(stateDirectory, 'host.key'))
    const connection = await connectToLog(settings, `agent ${host}`, signal)
    say.info({ log: connection.facts, durability }, 'connected')
    sayChecks(say, findings(connection.facts))
    const edges = { clock: systemClock, say, signal }
    const watermark = await watermarkFile(join(stateDirectory, 'watermark'), edges)
    try {
      // Guests that are simulated live in this process: nobody else can move them.
      const movers =
        settings.driver !== 'simulated'
          ? { movers: await openMovers({ ...edges, settings, logLevel, watermark }) }
          : {}
      await runAgent({
        ...movers,
        host,
        log: connection.log,
        heartbeats: connection.heartbeats,
        clock: systemClock,
        say,
        driver,
        key,
        watermark,
        wire: tlsWire,
        random: randomBytes,
        transfers: { listen, ...(address === undefined ? {} : { address }) },
        ...(bandwidthBytesPerSecond === undefined ? {} : { bandwidthBytesPerSecond }),
        signal,
      })
    } finally {
      await connection.close()
      await watermark.close()
    }
  } finally {
    await unlock()
  }
}

async function driverOf(settings: HostFile): Promise<Driver> {
  const { driver, stateDirectory, definitions, memoryMiB, qemu = {} } = settings
  const memoryBytes = memoryMiB === undefined ? totalmem() : memoryMiB * 1024 ** 2
  switch (driver) {
    case 'simulated': {
      const definitionOf = (vm: string) =>
        readDefinition(join(definitions, `${encodeURIComponent(vm)}.json`))
      return simulatedDriver({ guests: new Map(), memoryBytes, definitionOf }, systemClock)
    }
    case 'libvirt': {
      const places = libvirtPlaces(settings)
      if (isLibxl(settings)) {
        const host = libxlHostOf(settings, systemClock)
        const limit = memoryMiB === undefined ? {} : { memoryBytes }
        const facts = await probeLibxl({ ...places, ...limit, xl: host.xl, clock: systemClock })
        return libxlDriver({ host, guests: places.guests, definitions, facts })
      }
      const facts = await probeLibvirt({ ...places, memoryBytes, clock: systemClock })
      return libvirtDriver({ ...places, definitions, facts, clock: systemClock })
    }
    case 'xen': {
      const { resumer, guests } = xenPlaces(settings)
      const xl = openXl({ clock: systemClock, resumer })
      // What dom0 sees of the memory is its own.
      const limit = memoryMiB === undefined ? {} : { memoryBytes }
      const facts = await probeXen({ xl, resumer, ...limit })
      const startsByItself = '/etc/xen/auto'
      return xenDriver({ xl, notes: openNotes(guests), definitions, startsByItself, facts })
    }
    case 'qemu': {
      const { binary = 'qemu-system-x86_64', accelerators = 'auto' } = qemu
      const facts = await probeQemu({ binary, accelerators, memoryBytes, clock: systemClock })
      return qemuDriver({
        binary,
        guests: join(stateDirectory, 'guests'),
        definitions,
        facts,
        clock: systemClock,
      })
    }
  }
}

async function readDefinition(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, 'utf8'))
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

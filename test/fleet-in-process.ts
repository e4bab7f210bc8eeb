import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { coordinate } from '@ferry/coordinator/coordinate'
import type { Coordinator } from '@ferry/coordinator/coordinate'
import { defaultSnapshotEvery } from '@ferry/coordinator/keep-snapshots'
import {
  judgeCancel,
  judgeMigrate,
  judgeResolve,
  judgeStart,
} from '@ferry/coordinator/decide/request'
import { defaultRules } from '@ferry/coordinator/decide/world'
import type { Rules } from '@ferry/coordinator/decide/world'
import type { Fences } from '@ferry/coordinator/fences'
import { systemClock } from '@ferry/events/clock'
import { migrationOf } from '@ferry/events/fleet'
import { memoryLog } from '@ferry/events/log/in-memory'
import { memoryRegisters } from '@ferry/events/log/in-memory-registers'
import { registerSnapshots } from '@ferry/events/log/register-snapshots'
import type { MemoryLog } from '@ferry/events/log/in-memory'
import type { Migration } from '@ferry/events/migration'
import { isEnded } from '@ferry/events/phases'
import type { Say } from '@ferry/events/say'
import { memoryWatermark } from '@ferry/events/watermark'
import type { Watermark } from '@ferry/events/watermark'
import { runAgent } from '@ferry/host-agent/agent'
import { simulatedDriver } from '@ferry/host-agent/drivers/simulated/driver'
import type { SimulatedHost } from '@ferry/host-agent/drivers/simulated/driver'
import type { Driver } from '@ferry/host-agent/driver'
import { hostKey } from '@ferry/host-agent/keys'
import { tlsWire } from '@ferry/host-agent/transfer/tls-wire'
import type { MigrateRequest, ResolveRequest } from '@ferry/schemas/request'
import { until } from './until.ts'

/** Opens one for the time of some work. */
export async function withFleet(
  names: readonly string[],
  options: FleetOptions,
  work: (fleet: FleetInProcess) => Promise<void>,
): Promise<void> {
  const fleet = await fleetInProcess(names, options)
  try {
    await work(fleet)
  } finally {
    await fleet.close()
  }
}

export type FleetOptions = {
  readonly rules?: Partial<Rules>
  readonly vm?: object
  readonly snapshotEvery?: number
  /** Puts something between an agent and its hypervisor. */
  readonly drivers?: (driver: Driver, host: string) => Driver
  /** Puts something between an agent and its disk. */
  readonly watermarks?: (watermark: Watermark, host: string) => Watermark
  readonly fences?: Fences
  readonly say?: Say
}

/** A coordinator and hosts in this process: real transfers on loopback, simulated guests, a log in memory. */
export type FleetInProcess = {
  readonly log: MemoryLog
  /** The one that was started last. */
  readonly coordinator: () => Coordinator
  /** Ends the coordinator without a word, and starts another one on the same log. */
  readonly replaceCoordinator: () => Promise<void>
  readonly hosts: ReadonlyMap<string, HostInProcess>
  readonly start: (vm: string, host: string) => Promise<void>
  readonly migrate: (
    request: Partial<MigrateRequest> & { vm: string; request: string },
  ) => ReturnType<Coordinator['record']>
  readonly cancel: (migration: string) => ReturnType<Coordinator['record']>
  readonly resolve: (
    request: Partial<ResolveRequest> & { migration: string; fenced: string },
  ) => ReturnType<Coordinator['record']>
  /** Waits until the migration is as wished. */
  readonly when: (
    id: string,
    isIt: (migration: Migration) => boolean,
    what: string,
  ) => Promise<Migration>
  readonly ended: (id: string) => Promise<Migration>
  readonly close: () => Promise<void>
}

export type HostInProcess = {
  readonly world: SimulatedHost
  /** Ends the agent without a word, as far as that is possible in one process. */
  readonly stopAgent: () => Promise<void>
  readonly startAgent: () => void
}

export const silent: Say = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }

export const quietVm = { memoryMiB: 4, pagesPerSecond: 2000 }

export async function fleetInProcess(
  names: readonly string[],
  options: FleetOptions = {},
): Promise<FleetInProcess> {
  const { vm = quietVm, drivers = (driver) => driver, say = silent } = options
  const { watermarks = (watermark) => watermark } = options
  const folder = await mkdtemp(join(tmpdir(), 'ferry-fleet-'))
  const clock = systemClock
  const log = memoryLog(clock)
  const [leases, heartbeats] = [memoryRegisters(clock), memoryRegisters(clock)]
  const snapshots = registerSnapshots(memoryRegisters(clock), 'this fold')
  const stopAll = new AbortController()
  const coordinatorNamed = async (name: string) => {
    const stop = new AbortController()
    const coordinator = await coordinate({
      name,
      log,
      leases,
      heartbeats,
      snapshots,
      snapshotEvery: options.snapshotEvery ?? defaultSnapshotEvery,
      clock,
      rules: { ...defaultRules, ...options.rules },
      lease: { renewMs: 50, leaseMs: 500 },
      ...(options.fences === undefined ? {} : { fences: options.fences }),
      watermark: memoryWatermark(),
      settleMs: 100,
      say,
      signal: AbortSignal.any([stop.signal, stopAll.signal]),
    })
    return { coordinator, stop: () => stop.abort() }
  }
  let leader = await coordinatorNamed('c1')
  let coordinators = 1
  const current = () => leader.coordinator

  const hosts = new Map<string, HostInProcess>()
  const running: Promise<void>[] = []
  for (const host of names) {
    const world: SimulatedHost = {
      guests: new Map(),
      memoryBytes: 1024 ** 3,
      definitionOf: async () => vm,
    }
    const key = await hostKey(join(folder, `${host}.key`))
    const transfers = { listen: { host: '127.0.0.1', port: 0 } }
    const [wire, random] = [tlsWire, randomBytes]
    const watermark = watermarks(memoryWatermark(), host)
    const edges = { host, log, heartbeats, clock, say, key, watermark, wire, random, transfers }
    let stop = new AbortController()
    let agent: Promise<void> = Promise.resolve()
    const startAgent = () => {
      stop = new AbortController()
      const signal = AbortSignal.any([stop.signal, stopAll.signal])
      agent = runAgent({ ...edges, driver: drivers(simulatedDriver(world, clock), host), signal })
      running.push(agent)
    }
    startAgent()
    hosts.set(host, {
      world,
      startAgent,
      stopAgent: async () => {
        stop.abort()
        await agent
      },
    })
  }
  const migration = (id: string) => migrationOf(current().fleet(), id)
  const when: FleetInProcess['when'] = async (id, isIt, what) => {
    await until(`${id} ${what}`, () => {
      const now = migration(id)
      return now !== undefined && isIt(now)
    })
    const found = migration(id)
    if (found === undefined) throw new Error(`${id} is gone`)
    return found
  }
  await until('all hosts to report', () => names.every((name) => current().fleet().hosts.has(name)))
  await until('all hosts to be alive', () =>
    names.every((name) => current().world().alive.has(name)),
  )

  return {
    log,
    coordinator: current,
    replaceCoordinator: async () => {
      leader.stop()
      await leader.coordinator.ended
      leader = await coordinatorNamed(`c${(coordinators += 1)}`)
    },
    hosts,
    when,
    ended: (id) => when(id, ({ phase }) => isEnded(phase), 'to end'),
    start: async (vm, host) => {
      const request = { request: `start-${vm}`, vm, host, by: 'test' }
      await current().record((fleet, world) => judgeStart(fleet, request, world), request.request)
      await until(
        `${vm} to run`,
        () => current().fleet().guests.get(vm)?.seenOn[host]?.state === 'running',
      )
    },
    migrate: (request) =>
      current().record(
        (fleet, world) => judgeMigrate(fleet, { by: 'test', ...request }, world),
        request.request,
      ),
    cancel: (id) =>
      current().record(
        (fleet, world) => judgeCancel(fleet, { migration: id, by: 'test' }, world),
        id,
      ),
    resolve: (request) =>
      current().record(
        (fleet, world) => judgeResolve(fleet, { by: 'test', ...request }, world),
        request.migration,
      ),
    close: async () => {
      stopAll.abort()
      await Promise.all([current().ended, ...running])
      await rm(folder, { recursive: true })
    },
  }
}

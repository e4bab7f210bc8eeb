import { memoryKnownHosts } from '@ferry/coordinator/known-hosts'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { coordinate } from '@ferry/coordinator/coordinate'
import type { Coordinator } from '@ferry/coordinator/coordinate'
import { defaultSnapshotEvery } from '@ferry/coordinator/keep-snapshots'
import {
  judgeCancel,
  judgeLimit,
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
import type { Log } from '@ferry/events/log'
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
import type { Wire } from '@ferry/host-agent/transfer/wire'
import type { Writer } from '@ferry/schemas/event'
import type { Limits } from '@ferry/schemas/policy'
import type { MigrateRequest, ResolveRequest } from '@ferry/schemas/request'
import type { Versions } from '@ferry/schemas/versions'
import { newLife } from './life.ts'
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
  /** Which versions of the stream a host's agent knows. */
  readonly transferVersions?: (host: string) => Versions
  /** For all images that leave a host together. */
  readonly bandwidthBytesPerSecond?: number
  /** Puts something between an agent and its disk. */
  readonly watermarks?: (watermark: Watermark, host: string) => Watermark
  readonly fences?: Fences
  /** Puts something between a host and the network. */
  readonly wires?: (wire: Wire, host: string) => Wire
  /** Puts something between a process and the log. */
  readonly logs?: (log: Log, writer: Writer) => Log
  /** A driver as each new agent opens it, for guests that are not simulated here. */
  readonly open?: (host: string) => Driver
  /** How long to wait for anything. */
  readonly patienceMs?: number
  readonly say?: Say
}

/** A coordinator and hosts in this process: real transfers on loopback, a log in memory, and guests that are simulated, or not. */
export type FleetInProcess = {
  readonly log: MemoryLog
  /** The one that was started last. */
  readonly coordinator: () => Coordinator
  /** Ends the coordinator without a word, and starts another one on the same log. */
  readonly replaceCoordinator: () => Promise<void>
  /** Kills the coordinator where it stands, and starts another one, which has to wait for the lease. */
  readonly crashCoordinator: () => Promise<void>
  readonly hosts: ReadonlyMap<string, HostInProcess>
  readonly start: (vm: string, host: string) => Promise<void>
  readonly migrate: (
    request: Partial<MigrateRequest> & { vm: string; request: string },
  ) => ReturnType<Coordinator['record']>
  readonly cancel: (migration: string) => ReturnType<Coordinator['record']>
  readonly limit: (migration: string, limits: Limits) => ReturnType<Coordinator['record']>
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

/** Where its guests are, and what they do there. */
export const places = ({ hosts }: Pick<FleetInProcess, 'hosts'>): string[] =>
  [...hosts].flatMap(([host, { world }]) =>
    [...world.guests.values()].map(({ state }) => `${host} ${state}`),
  )

/** A log that says nothing to one host while that is wished. */
export const silentTo =
  (host: string, isSilent: () => boolean) =>
  (log: Log, writer: Writer): Log => ({
    ...log,
    next: (...args) =>
      isSilent() && 'host' in writer && writer.host === host
        ? new Promise(() => {})
        : log.next(...args),
  })

export type HostInProcess = {
  readonly world: SimulatedHost
  /** Ends the agent without a word, as far as that is possible in one process. */
  readonly stopAgent: () => Promise<void>
  readonly startAgent: () => void
  /** Kills the agent where it stands, and starts the next one. */
  readonly crashAgent: () => void
  /**
   * Kills the agent where it stands, and starts one of the same name that remembers nothing: with another key, and
   * bare, as on a new machine, or with the guests that are there.
   */
  readonly replaceMachine: (its: { readonly isBare: boolean }) => Promise<void>
}

export const silent: Say = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }

export const quietVm = { memoryMiB: 4, pagesPerSecond: 2000 }

export async function fleetInProcess(
  names: readonly string[],
  options: FleetOptions = {},
): Promise<FleetInProcess> {
  const { vm = quietVm, drivers = (driver) => driver, logs = (log) => log, say = silent } = options
  const { watermarks = (watermark) => watermark, wires = (wire) => wire } = options
  const folder = await mkdtemp(join(tmpdir(), 'ferry-fleet-'))
  const clock = systemClock
  const log = memoryLog(clock)
  const [leases, heartbeats] = [memoryRegisters(clock), memoryRegisters(clock)]
  const snapshots = registerSnapshots(memoryRegisters(clock), 'this fold')
  const stopAll = new AbortController()
  const coordinatorNamed = async (name: string) => {
    const stop = new AbortController()
    const life = newLife()
    const coordinator = await coordinate({
      name,
      log: life.hold(logs(log, { coordinator: name })),
      leases: life.hold(leases),
      heartbeats: life.hold(heartbeats),
      snapshots: life.hold(snapshots),
      snapshotEvery: options.snapshotEvery ?? defaultSnapshotEvery,
      clock: life.clock(clock),
      // Its hosts are heard at once: nothing is between.
      rules: { ...defaultRules, listenMs: 500, ...options.rules },
      lease: { renewMs: 50, leaseMs: 500 },
      ...(options.fences === undefined ? {} : { fences: options.fences }),
      watermark: memoryWatermark(),
      knownHosts: memoryKnownHosts(),
      settleMs: 100,
      say,
      signal: AbortSignal.any([stop.signal, stopAll.signal]),
    })
    return { coordinator, life, stop: () => stop.abort() }
  }
  let leader = await coordinatorNamed('c1')
  let coordinators = 1
  const nextCoordinator = async () => {
    leader = await coordinatorNamed(`c${(coordinators += 1)}`)
    await allAlive()
  }
  const current = () => leader.coordinator
  const all = (are: (name: string) => boolean) => () => names.every(are)
  const allAlive = () =>
    until(
      'all hosts to be alive',
      all((name) => current().world().alive.has(name)),
      options.patienceMs,
    )

  const hosts = new Map<string, HostInProcess>()
  const running = new Map<string, Promise<void>>()
  for (const host of names) {
    const world: SimulatedHost = {
      guests: new Map(),
      memoryBytes: 1024 ** 3,
      definitionOf: async () => vm,
    }
    let machine = 1
    const memory = async () => ({
      key: await hostKey(join(folder, `${host}.${machine}.key`)),
      watermark: watermarks(memoryWatermark(), host),
    })
    let remembered = await memory()
    const listen = { host: '127.0.0.1', port: 0 }
    const open = () => options.open?.(host) ?? simulatedDriver(world, clock)
    let stop = new AbortController()
    let life = newLife()
    const startAgent = () => {
      stop = new AbortController()
      life = newLife()
      const driver = open()
      const wire = life.wire(wires(tlsWire, host))
      life.atEnd(() => void driver.close())
      const agent = runAgent({
        host,
        log: life.hold(logs(log, { host })),
        heartbeats: life.hold(heartbeats),
        clock: life.clock(clock),
        say,
        driver: life.hold(drivers(driver, host)),
        ...remembered,
        wire: {
          ...wire,
          listen: async (at, door) => {
            const listening = await wire.listen(at, door)
            // The next agent is found where this one was.
            listen.port = listening.port
            return listening
          },
        },
        random: randomBytes,
        transfers: { listen },
        ...(options.bandwidthBytesPerSecond === undefined
          ? {}
          : { bandwidthBytesPerSecond: options.bandwidthBytesPerSecond }),
        ...(options.transferVersions === undefined
          ? {}
          : { transferVersions: options.transferVersions(host) }),
        signal: AbortSignal.any([stop.signal, stopAll.signal]),
      })
      running.set(host, agent)
    }
    const crashAgent = () => {
      life.end()
      // For the sake of the log, which goes on delivering otherwise: nothing of the dead one hears it.
      stop.abort()
      startAgent()
    }
    startAgent()
    hosts.set(host, {
      world,
      startAgent,
      stopAgent: async () => {
        stop.abort()
        await running.get(host)
      },
      crashAgent,
      replaceMachine: async ({ isBare }) => {
        machine += 1
        remembered = await memory()
        if (isBare) world.guests.clear()
        crashAgent()
      },
    })
  }
  const migration = (id: string) => migrationOf(current().fleet(), id)
  const when: FleetInProcess['when'] = async (id, isIt, what) => {
    const isSo = () => {
      const now = migration(id)
      return now !== undefined && isIt(now)
    }
    await until(`${id} ${what}`, isSo, options.patienceMs)
    const found = migration(id)
    if (found === undefined) throw new Error(`${id} is gone`)
    return found
  }
  await until(
    'all hosts to report',
    all((name) => current().fleet().hosts.has(name)),
    options.patienceMs,
  )
  await allAlive()

  return {
    log,
    coordinator: current,
    replaceCoordinator: async () => {
      leader.stop()
      await leader.coordinator.ended
      await nextCoordinator()
    },
    crashCoordinator: async () => {
      leader.life.end()
      leader.stop()
      await nextCoordinator()
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
        options.patienceMs,
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
    limit: (id, limits) =>
      current().record(
        (fleet, world) => judgeLimit(fleet, { migration: id, by: 'test', ...limits }, world),
        id,
      ),
    resolve: (request) =>
      current().record(
        (fleet, world) => judgeResolve(fleet, { by: 'test', ...request }, world),
        request.migration,
      ),
    close: async () => {
      stopAll.abort()
      await Promise.all([current().ended, ...running.values()])
      await rm(folder, { recursive: true })
    },
  }
}

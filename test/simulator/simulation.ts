import { createHash } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { gunzipSync, gzipSync } from 'node:zlib'
import { verbsOf } from '@ferry/coordinator/api'
import { coordinate, defaultSettleMs } from '@ferry/coordinator/coordinate'
import type { Coordinator } from '@ferry/coordinator/coordinate'
import type { Rules } from '@ferry/coordinator/decide/world'
import { defaultLease } from '@ferry/coordinator/lease'
import { isStopped } from '@ferry/events/alarms'
import type { Entry } from '@ferry/events/entry'
import * as fleets from '@ferry/events/fleet'
import type { Fleet } from '@ferry/events/fleet'
import { isEnded } from '@ferry/events/phases'
import { packed, registerSnapshots, unpacked } from '@ferry/events/log/register-snapshots'
import type { Packing } from '@ferry/events/log/register-snapshots'
import type { Say } from '@ferry/events/say'
import { runAgent } from '@ferry/host-agent/agent'
import { simulatedDriver } from '@ferry/host-agent/drivers/simulated/driver'
import { makeAnswers, nothingGoesOn } from '../direct.ts'
import { cableOf, machineLife } from './cable.ts'
import { chances as makeChances } from './chance.ts'
import type { Checker, Witnessed } from './checker.ts'
import { diskOn } from './disk.ts'
import type { Disk } from './disk.ts'
import { noFaults } from './faults.ts'
import type { Faults } from './faults.ts'
import { invariants } from './invariants/all.ts'
import { simulatedKey } from './keys.ts'
import { honestOperator } from './honest-operator.ts'
import { live } from './life.ts'
import { linkOf } from './link.ts'
import type { Link } from './link.ts'
import type { Life } from './life.ts'
import { logClient, registersClient } from './log-client.ts'
import { logServer } from './log-server.ts'
import type { Remembered } from './log-server.ts'
import { agentGone, driverOn, endGuest } from './machine.ts'
import type { Machine } from './machine.ts'
import { network as makeNetwork } from './network.ts'
import { simulatedTime } from './time.ts'
import { Violation } from './violation.ts'
import { SNAPSHOTS, weatherOver } from './weather.ts'
import { wireOf } from './wire.ts'
import type { Ether } from './wire.ts'

/** What one run is made of. The same plan gives the same log, byte for byte. */
export type Plan = {
  readonly seed: number
  readonly faults: Faults
  readonly hosts: number
  readonly guests: number
  readonly coordinators: number
  /** What an operator has set: patience that never ends within a run hides what is decided then. */
  readonly rules: Rules
  /** How long faults last, in simulated seconds. */
  readonly faultySeconds: number
}

export type Outcome = {
  readonly hash: string
  readonly migrations: number
  readonly completed: number
  readonly inDoubt: number
  readonly events: number
  readonly simulatedSeconds: number
  readonly violation?: Violation
  /** All that ever stood in the log. */
  readonly ever: readonly Remembered[]
}

/** In the calm, everything has so long to end: the longest limits of a migration, one after another. */
const CALM_MS = 30 * 60_000
const MEMORY_MIB = 1
const SLOW_BYTES_PER_SECOND = 2 ** 20
/** So often a guest is asked to move, in milliseconds. */
const ASK_EVERY_MS = 120

export async function simulate(plan: Plan): Promise<Outcome> {
  const chances = makeChances(plan.seed)
  const time = simulatedTime()
  let isCalm = false
  const faults = () => (isCalm ? noFaults : plan.faults)
  const network = makeNetwork(time, chances('latency'))
  const server = logServer(time, chances('server'), faults)
  const ether: Ether = {
    time,
    network,
    chances,
    faults,
    listeners: new Map(),
    completed: new Set(),
  }

  const fleet = fleets.emptyFleet()
  const hurt = new Set<string>()
  const junk = new Set<number>()
  const secrets: Uint8Array[] = []
  const machines = new Map<string, Machine>()
  const lives = new Map<string, Life>()
  const coordinators = new Map<string, Coordinator>()
  const found: { violation?: Violation } = {}
  const broken = (error: unknown) => {
    found.violation ??=
      error instanceof Violation
        ? error
        : new Violation('a bug', String((error as Error).stack ?? error))
  }

  const restless = () =>
    [...lives.values()].filter((life) => !life.isAtRest()).map(({ node }) => node)
  const witnessed: Witnessed = {
    machines,
    server,
    fleet,
    hurt,
    junk,
    secrets,
    completed: ether.completed,
    coordinators: () => [...coordinators.values()],
    restless,
  }
  const checkers: Checker[] = invariants.map((make) => make(witnessed))
  const checked = (look: (checker: Checker) => void) => {
    try {
      for (const checker of checkers) look(checker)
    } catch (error) {
      broken(error)
    }
  }
  let isJunk = false
  server.onStored((entry) => {
    if (isJunk) junk.add(entry.position)
    const ruling = fleets.note(fleet, entry)
    checked((checker) => checker.onEntry?.(entry, ruling))
  })
  server.onLost(() => {
    const { entries } = server
    for (const position of junk) if (position > entries.length) junk.delete(position)
    foldAnew(fleet, entries)
    checked((checker) => checker.onLoss?.(entries))
  })

  /** A process that was never written to fail so is a bug. */
  const say: Say = {
    debug: () => {},
    info: () => {},
    warn: () => {},
    error: (fields: unknown) => {
      const error = (fields as { err?: unknown }).err
      if (error instanceof TypeError || error instanceof RangeError) broken(error)
    },
  }
  const restarts = chances('restarts')
  const begin = (node: string, run: (life: Life) => Promise<void>) => {
    const { clockOffsetMs, clockDrift } = plan.faults
    const wrong = chances(`clock of ${node}`)
    const crashes = chances(`crashes of ${node}`)
    const life = live({
      node,
      time,
      wrong: {
        offsetMs: wrong.between(-clockOffsetMs, clockOffsetMs),
        drift: 1 + wrong.between(-clockDrift, clockDrift),
      },
      mayCrash: () => crashes.happens(faults().crash),
    })
    lives.set(node, life)
    life.onDeath(() => time.after(restarts.between(300, 8000), () => begin(node, run)))
    run(life).then(
      () => broken(new Error(`${node} has ended by itself`)),
      (error: unknown) => {
        // An edge that failed for too long may end a process: its operator's supervisor starts it again.
        if (error instanceof TypeError) broken(error)
        life.die()
      },
    )
  }

  /** Nobody ends a process in good order. When all is over, what waits in the dead ones is let go, or it stays in memory. */
  const over = new AbortController()
  const { signal } = over
  setMaxListeners(0, signal)

  const disks = new Map<string, Disk>()
  const diskOf = (life: Life) => {
    const disk = disks.get(life.node) ?? diskOn(time)
    disks.set(life.node, disk)
    return disk
  }
  const links = new WeakMap<Life, Link>()
  const linkIn = (life: Life) => {
    const link =
      links.get(life) ??
      linkOf({ life, server, network, time, chance: chances(`link of ${life.node}`) })
    links.set(life, link)
    return link
  }
  const clientOf = (life: Life) => ({
    life,
    link: linkIn(life),
    server,
    network,
    time,
    chances,
    faults,
  })
  const coordinator = (life: Life) =>
    coordinate({
      name: life.node,
      log: logClient(clientOf(life)),
      leases: registersClient(clientOf(life), 'leases'),
      heartbeats: registersClient(clientOf(life), 'heartbeats', HEARTBEATS_KEPT_MS),
      snapshots: registerSnapshots(registersClient(clientOf(life), SNAPSHOTS), 'simulated', atOnce),
      snapshotEvery: SNAPSHOT_EVERY,
      clock: life.clock,
      rules: plan.rules,
      lease: defaultLease,
      watermark: diskOf(life).watermark(life),
      knownHosts: diskOf(life).knownHosts,
      settleMs: defaultSettleMs,
      say,
      signal,
    }).then((running) => {
      coordinators.set(life.node, running)
      life.onDeath(() => coordinators.delete(life.node))
      return running.ended
    })
  const agent = (machine: Machine) => (life: Life) => {
    const { host } = machine
    const chance = chances(`driver on ${host}`)
    life.onDeath(() => agentGone(machine, life))
    return runAgent({
      host,
      log: logClient(clientOf(life)),
      heartbeats: registersClient(clientOf(life), 'heartbeats', HEARTBEATS_KEPT_MS),
      clock: life.clock,
      say,
      driver: driverOn(machine, {
        life,
        chance,
        faults,
        hurt: (vm) => hurt.add(vm),
        effect: (effect) => checked((checker) => checker.onEffect?.(effect)),
      }),
      key: machine.key,
      watermark: diskOf(life).watermark(life),
      wire: wireOf(ether, life),
      transfers: { listen: { host, port: 7000 } },
      random: (count) => {
        const bytes = chances(`keys of ${host}`).bytes(count)
        if (count === 32) secrets.push(bytes)
        return bytes
      },
      signal,
    })
  }

  const vmNames = Array.from({ length: plan.guests }, (_, nth) => `vm${nth + 1}`)
  const hostNames = Array.from({ length: plan.hosts }, (_, nth) => `h${nth + 1}`)
  const pages = chances('guests')
  const listening: Parameters<typeof cableOf>[2] = new Map()
  const answers = makeAnswers()
  for (const host of hostNames) {
    const definitionOf = async () => ({ memoryMiB: MEMORY_MIB, pagesPerSecond: pages.whole(400) })
    const world = {
      guests: new Map(),
      memoryBytes: plan.guests * MEMORY_MIB * 1024 ** 2,
      definitionOf,
    }
    const itself = machineLife(ether, host)
    const machine = {
      host,
      world,
      key: simulatedKey(host),
      fed: new Set<string>(),
      hypervisors: simulatedDriver(world, itself.clock),
      cable: cableOf(ether, itself, listening, answers),
      goesOn: nothingGoesOn(),
    }
    machines.set(host, machine)
    begin(host, agent(machine))
  }
  for (let nth = 1; nth <= plan.coordinators; nth++) begin(`c${nth}`, coordinator)

  const operator = chances('operator')
  const limiting = chances('limits')
  const directing = chances('directly')
  const early = chances('post-copy')
  let asked = 0
  /** Asks any coordinator, as the request API does; an answer that nobody waits for is not missed. */
  const request = (verb: string, body: object) => {
    const able = [...coordinators.values()]
    if (able.length === 0) return
    const verbs = verbsOf(operator.pick(able))
    verbs[verb]?.answer(body).catch((error: unknown) => {
      if (error instanceof TypeError) broken(error)
    })
  }
  /** Switches a machine off: what ran on it is gone. */
  const switchOff = (machine: Machine) => {
    for (const vm of machine.world.guests.keys()) {
      hurt.add(vm)
      endGuest(machine, vm)
    }
    lives.get(machine.host)?.die()
  }
  const answerAlarms = honestOperator({
    machines,
    coordinators: () => [...coordinators.values()],
    time,
    chance: chances('recovery'),
    switchOff,
    broken,
  })
  const answerDoubts = () => {
    for (const { id, phase, attempt } of fleets.underWay(fleet)) {
      const machine = machines.get(attempt.slot?.target ?? '')
      if (phase !== 'inDoubt' || machine === undefined || !operator.happens(0.2)) continue
      switchOff(machine)
      request('resolve', { migration: id, fenced: machine.host, by: 'operator', insist: true })
    }
  }
  const operate = () => {
    answerDoubts()
    if (isCalm) return
    time.after(operator.between(0, 2 * ASK_EVERY_MS), operate)
    const vm = operator.pick(vmNames)
    const known = fleet.guests.get(vm)
    const by = 'operator'
    const isThere = [...machines.values()].some(({ world }) => world.guests.has(vm))
    // The log may have forgotten a guest; whoever wants it started looks for it.
    if (Object.keys(known?.seenOn ?? {}).length === 0 && isThere) return
    if (Object.keys(known?.seenOn ?? {}).length === 0) {
      request('start', { request: `start-${asked++}`, vm, host: operator.pick(hostNames), by })
      return
    }
    const id = `m${asked++}`
    const isDirect = directing.happens(faults().direct)
    const isPostCopy = isDirect && early.happens(faults().postCopy)
    const policy = {
      timeoutMs: operator.pick([3000, 15_000, 60_000]),
      attempts: 1 + operator.whole(3),
      downtimeMs: operator.pick([0, 50, 300]),
      ...(isDirect ? { directConnections: 1 } : {}),
      ...(isPostCopy ? { postCopyAfterMs: 0 } : {}),
    }
    const target = operator.happens(0.5) ? { target: operator.pick(hostNames) } : {}
    const body = { request: id, vm, policy, by, ...target }
    request('migrate', body)
    if (operator.happens(faults().repeatedRequest))
      time.after(operator.between(0, 3000), () => request('migrate', body))
    if (operator.happens(faults().cancel))
      time.after(operator.between(0, 3000), () => request('cancel', { migration: id, by }))
    if (limiting.happens(faults().limit)) {
      const limits = {
        downtimeMs: limiting.pick([0, 50, 300, 3000]),
        bandwidthBytesPerSecond: limiting.pick([null, SLOW_BYTES_PER_SECOND]),
      }
      time.after(limiting.between(0, 1000), () =>
        request('limit', { migration: id, ...limits, by }),
      )
    }
  }

  /** The worst moment to change one's mind: the guest is about to be paused, or is. */
  server.onStored(({ message }) => {
    const event = message.is === 'event' ? message.event : undefined
    if (event?.type !== 'RoundPassed' && event?.type !== 'SourcePaused') return
    if (operator.happens(faults().cancel / 2))
      time.after(operator.between(0, 20), () =>
        request('cancel', { migration: event.migration, by: 'operator' }),
      )
  })

  const storm = weatherOver({
    time,
    chance: chances('weather'),
    faults,
    isCalm: () => isCalm,
    server,
    network,
    machines,
    lives,
    disks,
    fleet,
    hurt,
    switchOff,
    asJunk: (act) => {
      isJunk = true
      act()
      isJunk = false
    },
  })

  const begunAt = time.now()
  const faultyUntil = begunAt + plan.faultySeconds * 1000
  time.after(1000, operate)
  time.after(1000, answerAlarms)
  time.after(1000, storm)
  const hasEnded = () =>
    !isStopped(fleet.alarms) &&
    [...fleet.guests.values()].every(
      ({ migration, start }) =>
        start === undefined &&
        (migration === undefined || isEnded(migration.phase) || migration.phase === 'inDoubt'),
    )
  let settledAt: number | undefined
  while (found.violation === undefined && (await time.step())) {
    checked((checker) => checker.afterStep?.())
    if (!isCalm && time.now() >= faultyUntil) {
      isCalm = true
      server.fill(0)
      for (const disk of disks.values()) disk.fill(0)
      network.heal()
    }
    if (!isCalm) continue
    const isAtRest = restless().length === 0 && hasEnded()
    settledAt = isAtRest ? (settledAt ?? time.now()) : undefined
    const isQuiet = settledAt !== undefined && time.now() - settledAt > QUIET_MS
    if (isQuiet || time.now() - faultyUntil > CALM_MS) break
  }
  if (found.violation === undefined) {
    try {
      for (const { atEnd } of checkers) await atEnd?.()
    } catch (error) {
      broken(error)
    }
  }
  for (const life of lives.values()) life.die()
  over.abort()

  const hash = createHash('sha256')
  for (const { position, storedAt, subject } of server.entries)
    hash.update(`${position} ${storedAt} ${subject} ${server.bodies[position - 1]}\n`)
  const all = [...fleet.guests.values()]
    .flatMap(({ migration }) => migration ?? [])
    .concat([...fleet.past.values()])
  return {
    hash: hash.digest('hex'),
    migrations: all.length,
    completed: all.filter(({ phase }) => phase === 'completed').length,
    inDoubt: all.filter(({ phase }) => phase === 'inDoubt').length,
    events: server.entries.length,
    simulatedSeconds: (time.now() - begunAt) / 1000,
    ...found,
    ever: server.ever,
  }
}

/** As if it had never been further. */
function foldAnew(fleet: Fleet, entries: readonly Entry[]): void {
  const fresh = fleets.emptyFleet()
  for (const entry of entries) fleets.note(fresh, entry)
  delete fleet.leader
  const { guests, hosts, index, past, ...rest } = fresh
  Object.assign(fleet, rest)
  refill(fleet.guests, guests)
  refill(fleet.hosts, hosts)
  refill(fleet.index, index)
  refill(fleet.past, past)
}

function refill<Key, Value>(map: Map<Key, Value>, from: ReadonlyMap<Key, Value>): void {
  map.clear()
  for (const [key, value] of from) map.set(key, value)
}

/** As in the real bucket. */
const HEARTBEATS_KEPT_MS = 6000
/** Seldom enough to cost nothing, and often enough for most restarts to begin with one. */
const SNAPSHOT_EVERY = 400

/** No thread does it, because no seed would decide when that has ended. */
const atOnce: Packing = {
  pack: async (bytes) => gzipSync(bytes, packed),
  unpack: async (bytes) => gunzipSync(bytes, unpacked),
  digest: async (bytes) => createHash('sha256').update(bytes).digest('hex'),
}

/**
 * When nothing is under way for so long, nothing comes any more: longer than an answer is late, the log away, or a
 * command without its acknowledgement. While a process is dead, frozen or held up by its hypervisor, it is not quiet.
 */
const QUIET_MS = 20_000

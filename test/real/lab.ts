import { execFile, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '@ferry/coordinator/embedded/nats-server'
import { systemClock, within } from '@ferry/events/clock'
import { connect } from '@ferry/events/log/connect'
import type { Connection } from '@ferry/events/log/connect'
import { ask } from '@ferry/events/log/requests'
import { isEnded } from '@ferry/events/phases'
import type { Event } from '@ferry/schemas/event'
import type { FleetView, MigrationView, StatusView } from '@ferry/schemas/view'
import type { Answer, MigrateRequest } from '@ferry/schemas/request'
import { bootSector } from '../guest/boot-sector.ts'
import type { GuestProgram } from '../guest/boot-sector.ts'
import { until } from '../until.ts'
import { startCluster } from './cluster.ts'
import type { Cluster } from './cluster.ts'
import { openLink } from './link.ts'
import type { Link } from './link.ts'
import { moversUnder, qemusUnder, readMemory } from './outside.ts'
import type { Memory, QemuProcess } from './outside.ts'

/** A small fleet of real processes on this machine: nats-server, coordinator, agents, guests. Everything ends with it. */
export type Lab = {
  readonly folder: string
  readonly server: () => string
  readonly connection: Connection
  /** The first one; the others have names as well. */
  readonly coordinator: LabProcess
  readonly coordinators: ReadonlyMap<string, LabProcess>
  /** Which of them leads, by the log. */
  readonly leader: () => Promise<string>
  readonly agent: (host: string) => LabProcess
  /** The log's servers: one, where nothing else was asked for. */
  readonly cluster: Cluster
  /** All of them, which keep their ports and their data. */
  readonly stopLog: (signal?: NodeJS.Signals) => Promise<void>
  readonly startLog: () => Promise<void>
  readonly signalLog: (signal: NodeJS.Signals) => void
  readonly defineGuest: (vm: string, guest: LabGuest) => Promise<void>
  readonly start: (vm: string, host: string, limitMs?: number) => Promise<void>
  readonly migrate: (
    request: Partial<MigrateRequest> & { vm: string; request: string },
  ) => Promise<Answer>
  readonly cancel: (migration: string) => Promise<Answer>
  readonly fleet: () => Promise<FleetView>
  readonly status: (migration: string) => Promise<MigrationView>
  readonly ended: (migration: string, limitMs?: number) => Promise<MigrationView>
  /** Resolves with the next event that is so, from the call on. */
  readonly event: (
    what: string,
    isIt: (event: Event) => boolean,
    limitMs?: number,
  ) => Promise<Event>
  /** The network that images take to a host. */
  readonly link: (host: string) => Link
  /** The network between a host or a coordinator and nats-server. */
  readonly logLink: (name: string) => Link
  /** Runs the command line as an operator would. */
  readonly ferry: (...words: string[]) => Promise<Answered>
  readonly ferryAt: (server: string, ...words: string[]) => Promise<Answered>
  /** Runs `ferry watch` until what it has printed is as wished. */
  readonly watching: (words: readonly string[], isIt: (text: string) => boolean) => Promise<string>
  readonly qemus: () => Promise<QemuProcess[]>
  /** The one QEMU that runs; throws when there is none or more than one. */
  readonly onlyRunning: () => Promise<QemuProcess>
  /** Stops the guest to look at its memory, and lets it go on. */
  readonly memory: (vm: string, program: GuestProgram) => Promise<Memory>
  readonly close: () => Promise<void>
}

export type Answered = { readonly code: number; readonly stdout: string; readonly stderr: string }

export type LabGuest =
  | { readonly program: GuestProgram; readonly memoryMiB: number }
  | { readonly simulated: object }

/** One process of the lab, which can be ended in any way and started again. */
export type LabProcess = {
  readonly pid: () => number
  readonly start: () => void
  /** When it is started again, it is the Ferry of another folder: it was upgraded. */
  readonly runFrom: (tree: string) => void
  readonly signal: (signal: NodeJS.Signals) => void
  /** Ends it, also when it is stopped, and waits until it is gone. */
  readonly end: (signal?: NodeJS.Signals) => Promise<void>
  readonly log: () => Promise<string>
}

export type LabOptions = {
  readonly hosts: readonly string[]
  readonly driver: 'qemu' | 'libvirt' | 'simulated'
  /** What stands in a host's own file beside the rest. */
  readonly settingsOf?: (host: string) => object
  readonly logLevel?: string
  /** How many coordinators, named c1, c2, ...; absent: one. */
  readonly coordinators?: number
  /** Images, and what is said to nats-server, go through links of the lab's, which can be cut. */
  readonly isCuttable?: boolean
  /** Where the log listens; absent or 0: any free port. */
  readonly port?: number
  /** How many nats-servers keep the log; absent: one. */
  readonly servers?: 1 | 3
  /** The folder of the Ferry that a host or a coordinator runs; absent: this one. */
  readonly treeOf?: (name: string) => string
  /** What runs an agent's command, where that is not to see just what the lab sees. It must become that command. */
  readonly runsIn?: (host: string) => readonly string[]
}

/** A guest that works without rest is to be copied on a machine with other work as well: whoever measures asks for less. */
const PATIENT = { downtimeMs: 2000 }

export const ROOT = join(import.meta.dirname, '..', '..')
const ANSWER_MS = 15_000

export async function openLab(options: LabOptions): Promise<Lab> {
  const { hosts, driver, logLevel = 'info', coordinators: count = 1, isCuttable = false } = options
  const folder = await mkdtemp(join(tmpdir(), 'ferry-'))
  const definitions = join(folder, 'vms')
  await mkdir(definitions)
  const cluster = await startCluster(join(folder, 'log'), options.servers ?? 1, options.port)
  const servers = [...cluster.urls]
  const server = servers.join(',')
  const processes: LabProcess[] = []
  const { treeOf = () => ROOT } = options
  const run = (
    role: string,
    name: string,
    words: readonly string[],
    runner: readonly string[] = [],
  ) => {
    const file = join(folder, `${role}-${name}.log`)
    const all = [...runner, process.execPath, 'ferry.mjs', ...words, '--log-level', logLevel]
    const started = labProcess(file, all, treeOf(name))
    processes.push(started)
    return started
  }

  const links = new Map<string, Link>()
  const logLinks = new Map<string, Link>()
  /** Where somebody of that name finds nats-server. */
  const logFor = async (name: string): Promise<readonly string[]> => {
    // Who knows one server of a cluster is told of the others: only a lone one can be hidden behind a link.
    if (!isCuttable || servers.length > 1) return servers
    const link = await openLink(Number(new URL(server).port))
    logLinks.set(name, link)
    return [`nats://${link.address.host}:${link.address.port}`]
  }

  const coordinators = new Map<string, LabProcess>()
  for (let number = 1; number <= count; number++) {
    const name = `c${number}`
    const where = ['--server', (await logFor(name)).join(), '--state', folder]
    coordinators.set(name, run('coordinator', name, ['coordinator', '--name', name, ...where]))
  }
  const agents = new Map<string, LabProcess>()
  for (const host of hosts) {
    const config = join(folder, `${host}.json`)
    const transferPort = await freePort()
    const link = isCuttable ? await openLink(transferPort) : undefined
    if (link !== undefined) links.set(host, link)
    const settings = {
      host,
      servers: await logFor(host),
      stateDirectory: join(folder, host),
      definitions,
      driver,
      listen: { host: '127.0.0.1', port: transferPort },
      ...(link === undefined ? {} : { address: link.address }),
      ...(driver === 'qemu' ? { qemu: { accelerators: ['tcg'] } } : {}),
      ...options.settingsOf?.(host),
    }
    await writeFile(config, JSON.stringify(settings, null, 2))
    const words = ['agent', '--config', config]
    agents.set(host, run('agent', host, words, options.runsIn?.(host)))
  }
  const endAll = async () => {
    await Promise.all(processes.map((each) => each.end()))
    await cluster.close()
    await Promise.all([...links.values(), ...logLinks.values()].map((link) => link.close()))
  }
  const connection = await connect({ servers, name: 'lab' }, systemClock, {
    patienceMs: 60_000,
  }).catch(async (error: unknown) => {
    await endAll()
    await rm(folder, { recursive: true, force: true })
    throw error
  })

  const request = async <T>(verb: string, body: object) =>
    (await ask(connection.nc, systemClock, verb, body, ANSWER_MS)) as T
  const fleet = () => request<FleetView>('fleet', {})
  const status = async (migration: string) =>
    (await request<StatusView>('status', { migration })).migration
  const qemus = () => qemusUnder(folder)
  const isRunning = async (vm: string) =>
    (await fleet()).guests.some(
      (each) => each.vm === vm && each.copies.some(({ state }) => state === 'running'),
    )

  const lab: Lab = {
    folder,
    server: () => server,
    cluster,
    connection,
    coordinator: named(coordinators, 'c1'),
    coordinators,
    leader: async () => {
      const { leader } = await fleet()
      if (leader === undefined) throw new Error('nobody leads')
      return leader
    },
    agent: (host) => named(agents, host),
    stopLog: async (signal) =>
      void (await Promise.all(cluster.names.map((name) => cluster.stop(name, signal)))),
    startLog: async () => void (await Promise.all(cluster.names.map(cluster.start))),
    signalLog: (signal) => cluster.names.forEach((name) => cluster.signal(name, signal)),
    defineGuest: async (vm, guest) => {
      const path = join(definitions, `${encodeURIComponent(vm)}.json`)
      if ('simulated' in guest) return writeFile(path, JSON.stringify(guest.simulated))
      const disk = join(folder, `${vm}.img`)
      await writeFile(disk, bootSector(guest.program))
      const definition = {
        memoryMiB: guest.memoryMiB,
        accel: 'tcg',
        disks: [{ path: disk, format: 'raw', interface: 'ide' }],
      }
      return writeFile(path, JSON.stringify(definition))
    },
    start: async (vm, host, limitMs) => {
      const answer = await request<Answer>('start', {
        request: `start-${vm}-${Date.now()}`,
        vm,
        host,
        by: 'lab',
      })
      if (!answer.accepted) throw new Error(answer.sentence)
      await until(`${vm} to run on ${host}`, () => isRunning(vm), limitMs)
    },
    migrate: ({ policy, ...wish }) =>
      request<Answer>('migrate', { by: 'lab', ...wish, policy: { ...PATIENT, ...policy } }),
    cancel: (migration) => request<Answer>('cancel', { migration, by: 'lab' }),
    fleet,
    status,
    ended: async (migration, limitMs = 120_000) => {
      await until(
        `${migration} to end`,
        async () => isEnded((await status(migration)).phase),
        limitMs,
      )
      return status(migration)
    },
    event: (what, isIt, limitMs) => {
      const seen = nextEvent(connection, what, isIt, limitMs)
      // A test that fails before it waits for this has something else to say.
      seen.catch(() => {})
      return seen
    },
    link: (host) => named(links, host),
    logLink: (name) => named(logLinks, name),
    ferry: (...words) => ferryAt(server, ...words),
    ferryAt,
    watching: (words, isIt) => watching(server, words, isIt),
    qemus,
    onlyRunning: async () => {
      const found = await qemus()
      const running = found.filter(({ status: state }) => state === 'running')
      const [only] = running
      if (running.length !== 1 || only === undefined)
        throw new Error(`${running.length} guests run: ${JSON.stringify(found)}`)
      return only
    },
    memory: async (vm, program) => {
      const memory = await readMemory((await lab.onlyRunning()).folder, program)
      // It was paused for that, and the fleet was told so.
      await until(`${vm} to be known as running again`, () => isRunning(vm))
      return memory
    },
    close: async () => {
      await connection.close()
      await endAll()
      for (const pid of await moversUnder(folder)) process.kill(pid, 'SIGKILL')
      for (const { pid } of await qemus()) process.kill(pid, 'SIGKILL')
      await until('all guests to be gone', async () => (await qemus()).length === 0)
      await rm(folder, { recursive: true, force: true })
    },
  }
  try {
    await until('all hosts to be alive', async () => {
      const { hosts: known, leader } = await fleet()
      return leader !== undefined && known.filter(({ isAlive }) => isAlive).length === hosts.length
    })
  } catch (error) {
    const said = await Promise.all(processes.map(({ log }) => log()))
    await lab.close()
    throw new Error(`the lab did not come up:\n${said.join('\n')}`, { cause: error })
  }
  return lab
}

/** A lab for the time of some work; what its processes said is shown when that fails. */
export async function withLab(
  options: LabOptions,
  work: (lab: Lab) => Promise<void>,
): Promise<void> {
  const lab = await openLab(options)
  try {
    await work(lab)
  } catch (error) {
    const processes = [...lab.coordinators.values(), ...options.hosts.map(lab.agent)]
    for (const { log } of processes) console.log(await log())
    throw error
  } finally {
    await lab.close()
  }
}

function named<T>(things: ReadonlyMap<string, T>, name: string): T {
  const thing = things.get(name)
  if (thing === undefined) throw new Error(`the lab has no ${name}`)
  return thing
}

const EVENT_MS = 60_000

async function nextEvent(
  { log }: Connection,
  what: string,
  isIt: (event: Event) => boolean,
  limitMs = EVENT_MS,
): Promise<Event> {
  const stop = new AbortController()
  const after = await log.head()
  const looking = (async () => {
    for await (const { message } of log.follow({ after, signal: stop.signal }))
      if (message.is === 'event' && isIt(message.event)) return message.event
    throw new Error(`the log ended before ${what}`)
  })()
  try {
    return await within(systemClock, limitMs, what, looking)
  } finally {
    stop.abort()
    looking.catch(() => {})
  }
}

const FERRY_MS = 120_000

export const ferryAt = (server: string, ...words: string[]): Promise<Answered> =>
  new Promise((resolve) => {
    const env = { ...process.env, FERRY_SERVER: server }
    const options = { cwd: ROOT, timeout: FERRY_MS, env }
    const child = execFile(
      process.execPath,
      ['ferry.mjs', ...words],
      options,
      (_, stdout, stderr) => resolve({ code: child.exitCode ?? -1, stdout, stderr }),
    )
  })

async function watching(
  server: string,
  words: readonly string[],
  isIt: (text: string) => boolean,
): Promise<string> {
  const child = spawn(process.execPath, ['ferry.mjs', 'watch', ...words, '--server', server], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (more: string) => (text += more))
  try {
    await until('the log to be printed', () => isIt(text))
    return text
  } finally {
    child.kill('SIGINT')
  }
}

function labProcess(file: string, words: readonly string[], from: string): LabProcess {
  let tree = from
  let child: ChildProcess | undefined
  let gone: Promise<void> = Promise.resolve()
  const start = () => {
    const opening = open(file, 'a')
    gone = opening.then(
      (output) =>
        new Promise<void>((resolve) => {
          const [program = '', ...rest] = words
          child = spawn(program, rest, {
            cwd: tree,
            stdio: ['ignore', output.fd, output.fd],
          })
          child.once('exit', () => resolve())
          child.once('spawn', () => void output.close())
        }),
    )
  }
  start()
  return {
    pid: () => child?.pid ?? 0,
    start,
    runFrom: (other) => {
      tree = other
    },
    signal: (signal) => void child?.kill(signal),
    end: async (signal = 'SIGTERM') => {
      child?.kill(signal)
      child?.kill('SIGCONT')
      await gone
    },
    log: () => readFile(file, 'utf8').catch(() => ''),
  }
}

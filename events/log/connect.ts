import { readFile } from 'node:fs/promises'
import {
  DiscardPolicy,
  JetStreamApiError,
  RetentionPolicy,
  StorageType,
  jetstreamManager,
} from '@nats-io/jetstream'
import type { JetStreamManager, StreamConfig, StreamInfo } from '@nats-io/jetstream'
import { Kvm } from '@nats-io/kv'
import type { KV } from '@nats-io/kv'
import {
  AuthorizationError,
  UserAuthenticationExpiredError,
  connect as connectNats,
  credsAuthenticator,
  millis,
  nanos,
} from 'nats'
import type { Authenticator, NatsConnection } from 'nats'
import { Invalid } from '@ferry/schemas/parse'
import type { CopyProgress } from '@ferry/schemas/policy'
import { within } from '../clock.ts'
import type { Clock } from '../clock.ts'
import { NotDurable, demand, usualReplicas } from '../durability.ts'
import type { Durability, LogFacts } from '../durability.ts'
import { readEntry } from '../entry.ts'
import { LogUnavailable } from '../log.ts'
import type { Log } from '../log.ts'
import type { Registers } from '../registers.ts'
import type { Snapshots } from '../snapshots.ts'
import { filters, streams } from '../subjects.ts'
import { jetstreamLog } from './jetstream.ts'
import { foldVersion } from './fold-version.ts'
import { kvRegisters } from './kv.ts'
import { registerSnapshots } from './register-snapshots.ts'

/** Where the log is, and as whom to speak to it. */
export type LogAddress = {
  readonly servers: readonly string[]
  /** Shown by the server's monitoring. */
  readonly name: string
  /** A file with NATS credentials (JWT and seed), where the server asks for them. */
  readonly credentialsFile?: string
  /** Whoever runs the servers says that they sync each message: `LogFacts.isSaidToSync`. */
  readonly isSaidToSync?: boolean
}

export type Connection = {
  readonly log: Log
  /** Who leads. */
  readonly leases: Registers
  /** Who is alive: forgotten after a few seconds of silence. */
  readonly heartbeats: Registers
  /** For coordinators, and for who checks them; agents have no business there. */
  readonly snapshots: () => Promise<Snapshots>
  readonly nc: NatsConnection
  /** The progress of a guest's copying, from now on: samples, of which some may be missed. */
  readonly progressOf: (vm: string, signal: AbortSignal) => AsyncIterable<CopyProgress>
  readonly facts: LogFacts
  readonly close: () => Promise<void>
}

export type ConnectOptions = {
  /** How long the server may take to appear. */
  readonly patienceMs?: number
  readonly signal?: AbortSignal
  /**
   * Who makes the streams where they are missing: coordinators do, others wait for them. Where nobody says on how many
   * servers, it is three in a cluster.
   */
  readonly create?: { readonly replicas?: number }
  /** Less than this is refused. */
  readonly durability?: Durability
}

/** An id may be sent again within this window and is stored once; mirrors need the same window. */
const DUPLICATE_WINDOW_MS = 60 * 60 * 1000
const PROGRESS_KEPT_MS = 60 * 60 * 1000
const HEARTBEATS_KEPT_MS = 6000
const AGAIN_MS = 200

export async function connect(
  address: LogAddress,
  clock: Clock,
  options: ConnectOptions = {},
): Promise<Connection> {
  const { patienceMs = 10_000, create, durability = 'any', signal } = options
  const authenticator = await authenticatorOf(address)
  const began = clock.elapsed()
  const attempt = async <T>(what: string, request: () => Promise<T>): Promise<T> => {
    for (;;) {
      const left = patienceMs - (clock.elapsed() - began)
      try {
        return await within(clock, Math.max(1, left), what, request())
      } catch (error) {
        if (error instanceof NotDurable || error instanceof Invalid) throw error
        const waited = clock.elapsed() - began
        if (waited + AGAIN_MS > patienceMs) throw new LogUnavailable(what, waited, { cause: error })
      }
      await clock.sleep(AGAIN_MS, signal)
    }
  }

  const nc = await dialed(address, authenticator, attempt)
  try {
    const jsm = await attempt(`no JetStream at ${nc.getServer()}`, () =>
      jetstreamManager(nc, { timeout: 2000 }),
    )
    const factsOf = (stream: LogStream) => logFacts(address, nc, stream)
    if (create !== undefined) {
      const replicas = create.replicas ?? usualReplicas(nc.info?.cluster)
      const server = replicas === 1 ? 'one server' : `${replicas} servers`
      await attempt(`its streams cannot be made on ${server}`, () =>
        makeStreams(jsm, replicas, (config) => demand(durability, factsOf({ config }))),
      )
    }
    const info = await attempt(`no stream ${streams.log.name}; does a coordinator run?`, () =>
      jsm.streams.info(streams.log.name),
    )
    const facts = factsOf(info)
    demand(durability, facts)
    const kvm = new Kvm(nc)
    const bucket = (name: string, options: object) =>
      attempt('no registers', () =>
        kvm.create(name, { history: 1, replicas: info.config.num_replicas, ...options }),
      )
    const leases = await bucket('ferry_leases', {})
    const heartbeats = await bucket('ferry_heartbeats', {
      ttl: HEARTBEATS_KEPT_MS,
    })
    const { onReconnect, stop } = reconnects(nc)
    const registers = (kv: KV) => kvRegisters(kv, onReconnect, clock)
    const link = { nc, jsm, onReconnect }
    return {
      log: jetstreamLog(link, clock),
      leases: registers(leases),
      heartbeats: registers(heartbeats),
      snapshots: async () =>
        registerSnapshots(registers(await bucket('ferry_snapshots', {})), await foldVersion()),
      nc,
      progressOf: (vm, signal) => progressOf(nc, vm, signal),
      facts,
      close: async () => {
        stop()
        // A server that takes nothing more must not keep anybody from ending.
        await within(clock, CLOSE_MS, 'closing the connection', nc.close()).catch(() => {})
      },
    }
  } catch (error) {
    await nc.close()
    throw error
  }
}

const CLOSE_MS = 2000

type Attempt = <T>(what: string, request: () => Promise<T>) => Promise<T>

/** @throws {Invalid} when a server does not let it in: asked again it would say the same. */
async function dialed(
  address: LogAddress,
  authenticator: Authenticator | undefined,
  attempt: Attempt,
): Promise<NatsConnection> {
  const servers = address.servers.join(', ')
  let last: Promise<NatsConnection> | undefined
  try {
    return await attempt(`no nats-server at ${servers}`, async () => {
      last = dial(address, authenticator)
      try {
        return await last
      } catch (error) {
        if (!isTurnedAway(error)) throw error
        const { credentialsFile } = address
        const what = credentialsFile === undefined ? 'asked for' : 'refused'
        throw new Invalid('the credentials', '', credentialsFile, `are ${what} by ${servers}`)
      }
    })
  } catch (error) {
    // One that comes when nobody waits for it any more.
    last?.then((late) => late.close()).catch(() => {})
    throw error
  }
}

/** One that has to be asked again says the same in another way: it was too busy to look at them. */
const isTurnedAway = (error: unknown): boolean =>
  error instanceof UserAuthenticationExpiredError ||
  (error instanceof AuthorizationError && !/timeout/i.test(error.message))

/** One server of several may be dead: so long it is listened to before the next one is asked. nats.js takes 20 s. */
const DIAL_MS = 2000

const dial = (
  { servers, name }: LogAddress,
  authenticator: Authenticator | undefined,
): Promise<NatsConnection> =>
  connectNats({
    servers: [...servers],
    name,
    timeout: DIAL_MS,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 200,
    reconnectJitter: 50,
    pingInterval: 5000,
    maxPingOut: 2,
    ...(authenticator === undefined ? {} : { authenticator }),
  })

/**
 * @throws {Invalid} when the file holds something else.
 * @throws whatever the system says of a file that is not there.
 */
async function authenticatorOf({
  credentialsFile,
}: LogAddress): Promise<Authenticator | undefined> {
  if (credentialsFile === undefined) return undefined
  const authenticator = credsAuthenticator(await readFile(credentialsFile))
  try {
    authenticator('')
  } catch {
    throw new Invalid('the credentials', '', credentialsFile, 'must be a file that NATS made')
  }
  return authenticator
}

/** The log's stream: as it stands, or as it is to be made. */
type LogStream = { readonly config: Partial<StreamConfig> } & Partial<Pick<StreamInfo, 'cluster'>>

function logFacts(
  { isSaidToSync = false }: LogAddress,
  nc: NatsConnection,
  { config, cluster }: LogStream,
): LogFacts {
  const { num_replicas = 1, storage, retention, duplicate_window = 0 } = config
  const { max_age, max_bytes, max_msgs, max_msgs_per_subject } = config
  const limits = [max_age, max_bytes, max_msgs, max_msgs_per_subject]
  const others = cluster?.replicas ?? []
  return {
    version: nc.info?.version ?? 'unknown',
    url: nc.getServer(),
    ...(nc.info?.cluster === undefined ? {} : { cluster: nc.info.cluster }),
    replicas: num_replicas,
    current: 1 + others.filter(({ current }) => current).length,
    storage: storage === StorageType.Memory ? 'memory' : 'file',
    isSaidToSync,
    duplicateWindowMs: millis(duplicate_window),
    keepsAll:
      config.deny_delete === true &&
      config.deny_purge === true &&
      retention === RetentionPolicy.Limits &&
      limits.every((limit = 0) => limit <= 0),
  }
}

/** Makes the streams where they are missing. What stands there already is left as its operator set it. */
async function makeStreams(
  jsm: JetStreamManager,
  replicas: number,
  check: (log: Partial<StreamConfig>) => void,
): Promise<void> {
  const log = {
    name: streams.log.name,
    subjects: [...streams.log.subjects],
    storage: StorageType.File,
    retention: RetentionPolicy.Limits,
    discard: DiscardPolicy.New,
    num_replicas: replicas,
    duplicate_window: nanos(DUPLICATE_WINDOW_MS),
    deny_delete: true,
    deny_purge: true,
  }
  await makeStream(jsm, log, check)
  await makeStream(jsm, {
    name: streams.progress.name,
    subjects: [...streams.progress.subjects],
    storage: StorageType.File,
    retention: RetentionPolicy.Limits,
    discard: DiscardPolicy.Old,
    num_replicas: replicas,
    max_age: nanos(PROGRESS_KEPT_MS),
    max_bytes: 64 * 1024 * 1024,
  })
}

const STREAM_NOT_FOUND = 10059

async function makeStream(
  jsm: JetStreamManager,
  config: Parameters<typeof jsm.streams.add>[0],
  check: (config: Partial<StreamConfig>) => void = () => {},
): Promise<void> {
  try {
    const { config: found } = await jsm.streams.info(config.name)
    // A stream of an older Ferry lacks the subjects that came since.
    const subjects = [...new Set([...found.subjects, ...(config.subjects ?? [])])]
    if (subjects.length > found.subjects.length) await jsm.streams.update(config.name, { subjects })
  } catch (error) {
    if (!(error instanceof JetStreamApiError) || error.code !== STREAM_NOT_FOUND) throw error
    // Refused before anything is made: an empty log would stand there, as nobody wanted it.
    check(config)
    await jsm.streams.add(config)
  }
}

/** Tells everybody who listens that the connection came back. */
function reconnects(nc: NatsConnection) {
  const listeners = new Set<() => void>()
  const statuses = nc.status()
  void (async () => {
    for await (const status of statuses)
      if (status.type === 'reconnect') for (const act of listeners) act()
  })()
  return {
    onReconnect: (act: () => void) => {
      listeners.add(act)
      return () => void listeners.delete(act)
    },
    stop: () => listeners.clear(),
  }
}

async function* progressOf(
  nc: NatsConnection,
  vm: string,
  signal: AbortSignal,
): AsyncGenerator<CopyProgress, void, undefined> {
  const samples = nc.subscribe(filters.progressOf(vm))
  const stop = () => samples.unsubscribe()
  signal.addEventListener('abort', stop, { once: true })
  if (signal.aborted) stop()
  for await (const sample of samples) {
    const { message } = readEntry({
      position: 0,
      storedAt: 0,
      subject: sample.subject,
      body: sample.string(),
    })
    if (message.is === 'event' && message.event.type === 'ProgressSampled') yield message.event.data
  }
}

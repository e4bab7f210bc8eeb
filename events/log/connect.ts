import { readFile } from 'node:fs/promises'
import {
  DiscardPolicy,
  JetStreamApiError,
  RetentionPolicy,
  StorageType,
  jetstreamManager,
} from '@nats-io/jetstream'
import type { JetStreamManager } from '@nats-io/jetstream'
import { Kvm } from '@nats-io/kv'
import { connect as connectNats, credsAuthenticator, nanos } from 'nats'
import type { NatsConnection } from 'nats'
import type { CopyProgress } from '@ferry/schemas/policy'
import type { Clock } from '../clock.ts'
import { readEntry } from '../entry.ts'
import { LogUnavailable } from '../log.ts'
import type { Log } from '../log.ts'
import type { Registers } from '../registers.ts'
import { filters, streams } from '../subjects.ts'
import { jetstreamLog } from './jetstream.ts'
import { kvRegisters } from './kv.ts'

/** Where the log is, and as whom to speak to it. */
export type LogAddress = {
  readonly servers: readonly string[]
  /** Shown by the server's monitoring. */
  readonly name: string
  /** A file with NATS credentials (JWT and seed), where the server asks for them. */
  readonly credentialsFile?: string
}

export type Connection = {
  readonly log: Log
  /** Who leads. */
  readonly leases: Registers
  /** Who is alive: forgotten after a few seconds of silence. */
  readonly heartbeats: Registers
  readonly nc: NatsConnection
  /** The progress of a guest's copying, from now on: samples, of which some may be missed. */
  readonly progressOf: (vm: string, signal: AbortSignal) => AsyncIterable<CopyProgress>
  readonly server: ServerFacts
  readonly close: () => Promise<void>
}

/** What the server that answered is, and what may be expected of it. */
export type ServerFacts = {
  readonly version: string
  readonly url: string
  readonly replicas: number
}

export type ConnectOptions = {
  /** How long the server may take to appear. */
  readonly patienceMs?: number
  readonly signal?: AbortSignal
  /** Who makes the streams where they are missing: coordinators do, others wait for them. */
  readonly create?: { readonly replicas: number }
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
  const { patienceMs = 10_000, create, signal } = options
  const began = clock.elapsed()
  const attempt = async <T>(what: string, request: () => Promise<T>): Promise<T> => {
    for (;;) {
      try {
        return await request()
      } catch (error) {
        const waited = clock.elapsed() - began
        if (waited + AGAIN_MS > patienceMs) throw new LogUnavailable(what, waited, { cause: error })
      }
      await clock.sleep(AGAIN_MS, signal)
    }
  }

  const nc = await attempt(`no nats-server at ${address.servers.join(', ')}`, () => dial(address))
  try {
    const jsm = await attempt(`no JetStream at ${nc.getServer()}`, () =>
      jetstreamManager(nc, { timeout: 2000 }),
    )
    if (create !== undefined)
      await attempt('its streams cannot be made', () => makeStreams(jsm, create.replicas))
    const info = await attempt(`no stream ${streams.log.name}; does a coordinator run?`, () =>
      jsm.streams.info(streams.log.name),
    )
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
    const link = { nc, jsm, onReconnect }
    return {
      log: jetstreamLog(link, clock),
      leases: kvRegisters(leases, onReconnect, clock),
      heartbeats: kvRegisters(heartbeats, onReconnect, clock),
      nc,
      progressOf: (vm, signal) => progressOf(nc, vm, signal),
      server: {
        version: nc.info?.version ?? 'unknown',
        url: nc.getServer(),
        replicas: info.config.num_replicas,
      },
      close: async () => {
        stop()
        await nc.close()
      },
    }
  } catch (error) {
    await nc.close()
    throw error
  }
}

async function dial({ servers, name, credentialsFile }: LogAddress): Promise<NatsConnection> {
  return connectNats({
    servers: [...servers],
    name,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 200,
    reconnectJitter: 50,
    pingInterval: 5000,
    maxPingOut: 2,
    ...(credentialsFile === undefined ? {} : { authenticator: await credentials(credentialsFile) }),
  })
}

async function credentials(file: string) {
  return credsAuthenticator(await readFile(file))
}

/** Makes the streams where they are missing. What stands there already is left as its operator set it. */
async function makeStreams(jsm: JetStreamManager, replicas: number): Promise<void> {
  await makeStream(jsm, {
    name: streams.log.name,
    subjects: [...streams.log.subjects],
    storage: StorageType.File,
    retention: RetentionPolicy.Limits,
    discard: DiscardPolicy.New,
    num_replicas: replicas,
    duplicate_window: nanos(DUPLICATE_WINDOW_MS),
    deny_delete: true,
    deny_purge: true,
  })
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
): Promise<void> {
  try {
    const { config: found } = await jsm.streams.info(config.name)
    // A stream of an older Ferry lacks the subjects that came since.
    const subjects = [...new Set([...found.subjects, ...(config.subjects ?? [])])]
    if (subjects.length > found.subjects.length) await jsm.streams.update(config.name, { subjects })
  } catch (error) {
    if (!(error instanceof JetStreamApiError) || error.code !== STREAM_NOT_FOUND) throw error
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

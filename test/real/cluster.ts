import { join } from 'node:path'
import { freePort, startNatsServer } from '@ferry/coordinator/embedded/nats-server'
import type { NatsServer } from '@ferry/coordinator/embedded/nats-server'
import type { Connection } from '@ferry/events/log/connect'
import { streams } from '@ferry/events/subjects'
import { until } from '../until.ts'

/** The log's servers as real processes on this machine: one that stands alone, or three that are a cluster. */
export type Cluster = {
  readonly names: readonly string[]
  readonly urls: readonly string[]
  /** On its port, and with its data. */
  readonly start: (name: string) => Promise<void>
  readonly stop: (name: string, signal?: NodeJS.Signals) => Promise<void>
  /** SIGSTOP: it is there and says nothing, until SIGCONT. */
  readonly signal: (name: string, signal: NodeJS.Signals) => void
  readonly close: () => Promise<void>
}

export async function startCluster(folder: string, size: 1 | 3, port = 0): Promise<Cluster> {
  const names = Array.from({ length: size }, (_, nth) => `n${nth + 1}`)
  const routes: number[] = []
  const places = new Map<string, { dataDirectory: string; port: number }>()
  for (const name of names) {
    routes.push(await freePort())
    const own = port === 0 ? await freePort() : port
    places.set(name, { dataDirectory: join(folder, name), port: own })
  }
  const running = new Map<string, NatsServer>()
  const start = async (name: string) => {
    const place = at(places, name)
    const cluster = { name, port: routes[names.indexOf(name)] ?? 0, routes }
    running.set(name, await startNatsServer(size === 1 ? place : { ...place, cluster }))
  }
  const signal = (name: string, which: NodeJS.Signals) => {
    process.kill(at(running, name).pid, which)
  }
  const cluster: Cluster = {
    names,
    urls: names.map((name) => `nats://127.0.0.1:${at(places, name).port}`),
    start,
    stop: (name, which) => at(running, name).stop(which),
    signal,
    // Also those that are paused, which would not hear anything gentler.
    close: async () =>
      void (await Promise.all([...running.values()].map((server) => server.stop('SIGKILL')))),
  }
  try {
    await Promise.all(names.map(start))
    return cluster
  } catch (error) {
    await cluster.close()
    throw error
  }
}

type Raft = {
  readonly leader?: string
  readonly replicas?: readonly { readonly name: string; readonly current: boolean }[]
}

/** Which server leads a stream. */
export async function leaderOf(
  connection: Connection,
  stream: string = streams.log.name,
): Promise<string> {
  let found: string | undefined
  await until(`${stream} to have a leader`, async () => {
    found = (await raftOf(connection, stream))?.leader
    return found !== undefined && found !== ''
  })
  return found ?? ''
}

export const whole = (connection: Connection): Promise<void> =>
  until('every server to have all of the log', async () => {
    const raft = await raftOf(connection, streams.log.name)
    return raft?.leader !== undefined && raft.replicas?.every(({ current }) => current) === true
  })

async function raftOf({ nc }: Connection, stream: string): Promise<Raft | undefined> {
  try {
    const answer = await nc.request(`$JS.API.STREAM.INFO.${stream}`, '', { timeout: 1000 })
    return answer.json<{ cluster?: Raft }>().cluster
  } catch {
    // Nobody leads: there is nobody to answer.
    return undefined
  }
}

function at<T>(things: ReadonlyMap<string, T>, name: string): T {
  const thing = things.get(name)
  if (thing === undefined) throw new Error(`there is no server ${name}`)
  return thing
}

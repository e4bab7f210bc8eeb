import { bad, doubtful, good } from './check.ts'
import type { Check } from './check.ts'

/** What can be known of the server and the stream that hold the log, and what that means for whoever relies on it. */
export type LogFacts = {
  readonly version: string
  readonly url: string
  /** The cluster that the server belongs to; absent: it stands alone. */
  readonly cluster?: string
  /** On how many servers the log is to stand, and on how many all of it stands at this moment. */
  readonly replicas: number
  readonly current: number
  readonly storage: 'file' | 'memory'
  /**
   * Each message is on a disk before it is acknowledged (`sync_interval: always`). NATS does not tell its clients, so
   * this is the word of whoever runs the server.
   */
  readonly isSaidToSync: boolean
  /** An event that is sent again within this time is stored once. */
  readonly duplicateWindowMs: number
  /** Nothing that was stored goes away: by nobody's deed, and by no limit of age, number or size. */
  readonly keepsAll: boolean
}

/**
 * What a log must survive, as its operator asks for it:
 * - `synced`: power cuts. Each message is on a disk before it is acknowledged.
 * - `replicated`: the loss of a server and its disk. The log stands on three servers or more.
 */
export const durabilities = ['any', 'synced', 'replicated'] as const
export type Durability = (typeof durabilities)[number]

export class NotDurable extends Error {
  override readonly name = 'NotDurable'

  constructor(asked: Durability, lack: Lack) {
    super(`a log that is ${asked} was asked for, and ${lack.found}. ${lack.todo}`)
  }
}

/** @throws {NotDurable} with what was found and what to change. */
export function demand(asked: Durability, facts: LogFacts): void {
  const lack = demands[asked].map((lackOf) => lackOf(facts)).find((each) => each !== undefined)
  if (lack !== undefined) throw new NotDurable(asked, lack)
}

/** Everything worth knowing about a log, good or not, in the words of an operator. */
export const findings = (facts: LogFacts): Check[] => [
  serverFinding(facts),
  replicasFinding(facts),
  powerFinding(facts),
  historyFinding(facts),
]

/** On how many servers to make a log for which nobody has said it. */
export const usualReplicas = (cluster: string | undefined): number =>
  cluster === undefined ? 1 : ENOUGH_REPLICAS

/** Before these, a nats-server does not do what is named. */
const since = { tried: [2, 9, 10], guardsInCluster: [2, 9, 21], syncs: [2, 10, 0] }

export const canSync = (version: string): boolean => isSince(version, since.syncs)
export const guardsInCluster = (version: string): boolean => isSince(version, since.guardsInCluster)

/** Two of three may answer while one is away; two alone are no safer than one. */
const ENOUGH_REPLICAS = 3

type Lack = { readonly found: string; readonly todo: string }

const demands: Record<Durability, readonly ((facts: LogFacts) => Lack | undefined)[]> = {
  any: [],
  synced: [memoryLack, syncLack],
  replicated: [memoryLack, replicasLack],
}

function memoryLack({ storage }: LogFacts): Lack | undefined {
  if (storage === 'file') return undefined
  return {
    found: 'it is kept in memory, and is gone when its server ends',
    todo: 'Its stream has to be made with file storage.',
  }
}

function syncLack({ version, isSaidToSync }: LogFacts): Lack | undefined {
  if (!canSync(version))
    return {
      found: `nats-server ${version} writes to its disk every two minutes, and cannot do otherwise`,
      todo: 'Run 2.10 or later with sync_interval: always, or three servers.',
    }
  if (isSaidToSync) return undefined
  return {
    found:
      'NATS does not tell its clients how often it writes to its disk; every two minutes, where nobody set it',
    todo: 'Set sync_interval: always on each server and say so (--synced; "logIsSynced": true in host.json), or run three servers.',
  }
}

function replicasLack({ replicas, cluster }: LogFacts): Lack | undefined {
  if (replicas >= ENOUGH_REPLICAS) return undefined
  return {
    found: `it stands on ${servers(replicas)}`,
    todo:
      cluster === undefined
        ? 'Run three nats-servers as a cluster.'
        : `In the cluster ${cluster}: nats stream edit FERRY --replicas ${ENOUGH_REPLICAS}`,
  }
}

function serverFinding({ version, url, cluster, replicas }: LogFacts): Check {
  const what = 'nats-server'
  const found = `${version} at ${url}, ${cluster === undefined ? 'alone' : `in the cluster ${cluster}`}`
  if (!isSince(version, since.tried))
    return doubtful(what, found, 'Ferry was never tried with a server before 2.9.10: upgrade it.')
  if (replicas === 1 || guardsInCluster(version)) return good(what, found)
  return doubtful(
    what,
    `${found}; it lets two guarded writers through at once`,
    'Ferry reads back who was first, and is safe. From 2.9.21 on the server sees to it as well.',
  )
}

function replicasFinding(facts: LogFacts): Check {
  const { replicas, current } = facts
  const what = 'replicas'
  const lack = replicasLack(facts)
  if (lack !== undefined)
    return doubtful(what, `the log stands on ${servers(replicas)}`, `For production: ${lack.todo}`)
  const found = `the log stands on ${servers(replicas)}, of which ${current} have all of it`
  return current === replicas
    ? good(what, found)
    : doubtful(what, found, 'Look at the others: nats stream info FERRY')
}

function powerFinding(facts: LogFacts): Check {
  const what = 'a power cut'
  const inMemory = memoryLack(facts)
  if (inMemory !== undefined) return bad(what, inMemory.found, inMemory.todo)
  const lack = syncLack(facts)
  if (lack === undefined)
    return good(what, 'takes nothing: whoever runs the server says that it syncs each message')
  if (facts.replicas >= ENOUGH_REPLICAS)
    return good(what, `takes nothing unless it takes all servers at once: ${lack.found}`)
  return doubtful(what, `may take the end of the log: ${lack.found}`, lack.todo)
}

const MINUTE_MS = 60_000
/** An event is sent again for a minute at the most; a server that is away for a while must not make that two. */
const LEAST_WINDOW_MS = 2 * MINUTE_MS

function historyFinding({ keepsAll, duplicateWindowMs }: LogFacts): Check {
  const what = 'history'
  const window = `an event is known again for ${Math.round(duplicateWindowMs / MINUTE_MS)} min`
  if (!keepsAll)
    return bad(
      what,
      `old events may go, or be deleted; ${window}`,
      'A log without its beginning cannot be folded: take the limits off the stream FERRY, and deny deletes and purges.',
    )
  return duplicateWindowMs < LEAST_WINDOW_MS
    ? doubtful(what, `all of it is kept; ${window}`, 'nats stream edit FERRY --dupe-window 1h')
    : good(what, `all of it is kept; ${window}`)
}

const servers = (count: number) => (count === 1 ? 'one server' : `${count} servers`)

function isSince(version: string, limit: readonly number[]): boolean {
  const parts = version.split(/[.-]/).map(Number)
  for (const [at, part] of limit.entries()) {
    const mine = parts[at] ?? 0
    if (mine !== part) return mine > part
  }
  return true
}

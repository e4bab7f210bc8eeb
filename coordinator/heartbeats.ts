import type { Clock } from '@ferry/events/clock'
import type { Registers } from '@ferry/events/registers'
import { nameOf, token } from '@ferry/events/subjects'
import type { KnownHosts } from './known-hosts.ts'

/** Hosts write `heartbeat.<host>` every second; one that was silent for longer than this is not counted on. */
const SILENT_AFTER_MS = 6000

export type Heartbeats = {
  readonly alive: () => ReadonlySet<string>
  /** How long this coordinator has heard without a break; 0: it does not. Who hears nothing cannot say who is silent. */
  readonly listenedMs: () => number
  readonly watching: Promise<unknown>
}

/** What coordinators say there themselves, to know that they would hear a host. */
const SPEAK_MS = 1000
const BREAK_MS = 3000

/**
 * Listens to the hosts' heartbeats. When one came is taken from this process's own clock. Heartbeats expire, and a log may
 * lose all that it knew of a host. So that there is such a host each coordinator remembers for itself, and tells the others
 * in registers that do not expire, `known.<host>`.
 */
export function listenToHeartbeats(
  {
    name,
    heartbeats,
    kept,
    known,
  }: {
    readonly name: string
    readonly heartbeats: Registers
    readonly kept: Registers
    readonly known: KnownHosts
  },
  clock: Clock,
  changed: () => void,
  signal: AbortSignal,
): Heartbeats {
  const heard = new Map<string, { revision: number; at: number }>()
  /** What stands in the registers. */
  const told = new Set<string>()
  const tell = (host: string) => kept.write(`known.${token(host)}`, host, 0).catch(() => {})
  const isAlive = (at: number) => clock.elapsed() - at < SILENT_AFTER_MS
  const listen = async () => {
    for await (const { key, revision } of heartbeats.watch('heartbeat', signal)) {
      const host = nameOf(key.slice('heartbeat.'.length))
      const before = heard.get(host)
      // Told once more, after a reconnect: no sign of life.
      if (before?.revision === revision) continue
      heard.set(host, { revision, at: clock.elapsed() })
      known.add(host)
      // With each beat, until it is read back: a write may get lost.
      if (!told.has(host)) void tell(host)
      // A host that is new, or back, may be what a waiting migration needs.
      if (before === undefined || !isAlive(before.at)) changed()
    }
  }
  const remember = async () => {
    for (const host of known.names()) void tell(host)
    for await (const { key } of kept.watch('known', signal)) {
      const host = nameOf(key.slice('known.'.length))
      told.add(host)
      known.add(host)
    }
  }
  let hearing: { readonly since: number; readonly last: number } | undefined
  const isUnbroken = () => hearing !== undefined && clock.elapsed() - hearing.last <= BREAK_MS
  const speak = async () => {
    while (!signal.aborted) {
      heartbeats.put(`listening.${token(name)}`, '').catch(() => {})
      await clock.sleep(SPEAK_MS, signal).catch(() => {})
    }
  }
  const hearOneself = async () => {
    const before = new Map<string, number>()
    for await (const { key, revision } of heartbeats.watch('listening', signal)) {
      if (before.get(key) === revision) continue
      before.set(key, revision)
      const now = clock.elapsed()
      const since = isUnbroken() ? (hearing?.since ?? now) : now
      hearing = { since, last: now }
    }
  }
  return {
    listenedMs: () => (hearing !== undefined && isUnbroken() ? clock.elapsed() - hearing.since : 0),
    alive: () => new Set([...heard].filter(([, { at }]) => isAlive(at)).map(([host]) => host)),
    watching: Promise.all([listen(), remember(), speak(), hearOneself()]),
  }
}

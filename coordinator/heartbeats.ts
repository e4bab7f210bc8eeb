import type { Clock } from '@ferry/events/clock'
import type { Registers } from '@ferry/events/registers'
import { nameOf } from '@ferry/events/subjects'

/** Hosts write `heartbeat.<host>` every second; one that was silent for longer than this is not counted on. */
const SILENT_AFTER_MS = 6000

export type Heartbeats = {
  readonly alive: () => ReadonlySet<string>
  /** Those whose heartbeat this process has ever heard. */
  readonly known: () => ReadonlySet<string>
  readonly watching: Promise<void>
}

/** Listens to the hosts' heartbeats. When one came is taken from this process's own clock. */
export function listenToHeartbeats(
  registers: Registers,
  clock: Clock,
  changed: () => void,
  signal: AbortSignal,
): Heartbeats {
  const heard = new Map<string, { revision: number; at: number }>()
  const isAlive = (at: number) => clock.elapsed() - at < SILENT_AFTER_MS
  const watching = (async () => {
    for await (const { key, revision } of registers.watch('heartbeat', signal)) {
      const host = nameOf(key.slice('heartbeat.'.length))
      const before = heard.get(host)
      // Told once more, after a reconnect: no sign of life.
      if (before?.revision === revision) continue
      heard.set(host, { revision, at: clock.elapsed() })
      // A host that is new, or back, may be what a waiting migration needs.
      if (before === undefined || !isAlive(before.at)) changed()
    }
  })()
  return {
    alive: () => new Set([...heard].filter(([, { at }]) => isAlive(at)).map(([host]) => host)),
    known: () => new Set(heard.keys()),
    watching,
  }
}

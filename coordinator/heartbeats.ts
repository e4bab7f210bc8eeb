import type { Clock } from '@ferry/events/clock'
import type { Registers } from '@ferry/events/registers'
import { nameOf } from '@ferry/events/subjects'

/** Hosts write `heartbeat.<host>` every second; one that was silent for longer than this is not counted on. */
const SILENT_AFTER_MS = 6000

export type Heartbeats = {
  readonly alive: () => ReadonlySet<string>
  readonly watching: Promise<void>
}

/** Listens to the hosts' heartbeats. When one came is taken from this process's own clock. */
export function listenToHeartbeats(
  registers: Registers,
  clock: Clock,
  changed: () => void,
  signal: AbortSignal,
): Heartbeats {
  const heardAt = new Map<string, number>()
  const isAlive = (at: number) => clock.elapsed() - at < SILENT_AFTER_MS
  const watching = (async () => {
    for await (const { key } of registers.watch('heartbeat', signal)) {
      const host = nameOf(key.slice('heartbeat.'.length))
      const before = heardAt.get(host)
      heardAt.set(host, clock.elapsed())
      // A host that is new, or back, may be what a waiting migration needs.
      if (before === undefined || !isAlive(before)) changed()
    }
  })()
  return {
    alive: () => new Set([...heardAt].filter(([, at]) => isAlive(at)).map(([host]) => host)),
    watching,
  }
}

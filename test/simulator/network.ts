import type { Chance } from './chance.ts'
import type { Time } from './time.ts'

/** Who reaches whom: nodes by name, the log's server among them. A partition blocks one way or both. */
export type Network = {
  readonly reaches: (from: string, to: string) => boolean
  readonly block: (from: string, to: string, ms: number) => void
  readonly heal: () => void
  /** How long a message takes, in milliseconds. */
  readonly latency: () => number
}

export const LOG = 'log'

export function network(time: Time, chance: Chance): Network {
  const blocked = new Map<string, number>()
  const way = (from: string, to: string) => `${from}>${to}`
  return {
    reaches: (from, to) => (blocked.get(way(from, to)) ?? 0) <= time.now(),
    block: (from, to, ms) => void blocked.set(way(from, to), time.now() + ms),
    heal: () => blocked.clear(),
    latency: () => chance.between(0.2, 1.5),
  }
}

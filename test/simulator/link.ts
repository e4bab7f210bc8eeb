import type { Chance } from './chance.ts'
import type { Life } from './life.ts'
import type { LogServer } from './log-server.ts'
import { LOG } from './network.ts'
import type { Network } from './network.ts'
import type { Time } from './time.ts'

/** One process's connection to the log's server: it ends with the server, and is made anew when that is back. */
export type Link = {
  /** Which connection stands; what is sent on one never arrives on another. `undefined`: none. */
  readonly present: () => number | undefined
  readonly onReturn: (act: () => void) => () => void
}

const RECONNECT_MS = 250

export function linkOf(edges: {
  readonly life: Life
  readonly server: LogServer
  readonly network: Network
  readonly time: Time
  readonly chance: Chance
}): Link {
  const { life, server, network, time, chance } = edges
  const listeners = new Set<() => void>()
  let made = server.stops()
  const reconnect = () => {
    if (life.isDead() || !server.isUp() || made === server.stops()) return
    if (!network.reaches(life.node, LOG) || !network.reaches(LOG, life.node)) return later()
    made = server.stops()
    life.whenAwake(() => {
      for (const act of listeners) act()
    })
  }
  const later = () => void time.after(chance.between(0, RECONNECT_MS), reconnect)
  life.onDeath(server.onUp(later))
  return {
    present: () => (server.isUp() && made === server.stops() ? made : undefined),
    onReturn: (act) => {
      listeners.add(act)
      return () => void listeners.delete(act)
    },
  }
}

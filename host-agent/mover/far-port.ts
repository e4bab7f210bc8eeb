import type { Socket } from 'node:net'
import type { Doorkeeper } from '../transfer/port.ts'
import type { Visit } from '../transfer/wire.ts'
import { arrive } from './visitors.ts'
import type { Handed, ToAgent } from './words.ts'

/** The host's port, as a mover knows it: it belongs to the agent, which hands over who comes. */
export type FarPort = Doorkeeper & {
  readonly handed: (visit: Handed, socket: Socket) => void
  /** The agent is gone, and nobody can be handed over any more. */
  readonly cutOff: () => void
}

/** @param lost is called when somebody is waited for, and nobody can come. */
export function openFarPort(tell: (message: ToAgent) => void, lost: () => void): FarPort {
  const takes = new Map<string, (visit: Visit) => void>()
  let isCutOff = false
  let hasVisitor = false
  return {
    expect: (transfer, attempt, expiresAt) => tell({ expect: { transfer, attempt, expiresAt } }),
    receive: (transfer, take) => {
      takes.set(transfer, take)
      if (isCutOff) lost()
      else tell({ receive: transfer })
    },
    used: (transfer) => {
      takes.delete(transfer)
      tell({ used: transfer })
    },
    forget: (attempt) => tell({ forget: attempt }),
    refused: (intruder) => {
      tell({ refused: intruder })
      if (isCutOff && takes.size > 0) lost()
    },
    handed: (visit, socket) => {
      const take = takes.get(visit.transfer)
      if (take === undefined) return void socket.destroy()
      hasVisitor = true
      take(arrive(visit, socket))
    },
    cutOff: () => {
      isCutOff = true
      // Somebody may be proving at this moment that he is the right one.
      if (takes.size > 0 && !hasVisitor) lost()
    },
  }
}

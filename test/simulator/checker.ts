import type { Entry } from '@ferry/events/entry'
import type { Fleet, Ruling } from '@ferry/events/fleet'
import type { Coordinator } from '@ferry/coordinator/coordinate'
import type { LogServer } from './log-server.ts'
import type { Effect, Machine } from './machine.ts'

/** What a checker may look at: the world as it is, not only as the log tells it. */
export type Witnessed = {
  readonly machines: ReadonlyMap<string, Machine>
  readonly server: LogServer
  /** The log folded up to its end. */
  readonly fleet: Fleet
  /** Guests whose real copy was ended by a fault of this world. */
  readonly hurt: ReadonlySet<string>
  /** Positions of what strangers put into the log. */
  readonly junk: ReadonlySet<number>
  /** Every transfer's key. */
  readonly secrets: readonly Uint8Array[]
  /** Transfers whose end frame has been sent. */
  readonly completed: ReadonlySet<string>
  readonly coordinators: () => readonly Coordinator[]
  /** Processes that are dead, frozen, or wait for their hypervisor. */
  readonly restless: () => readonly string[]
}

/** Watches one invariant; throws `Violation`. */
export type Checker = {
  readonly afterStep?: () => void
  readonly onEffect?: (effect: Effect) => void
  readonly onEntry?: (entry: Entry, ruling: Ruling) => void
  /** The log has lost its tail; this is what is left of it. */
  readonly onLoss?: (left: readonly Entry[]) => void
  /** When calm has come and everything had time to end. */
  readonly atEnd?: () => Promise<void> | void
}

export type MakeChecker = (witnessed: Witnessed) => Checker

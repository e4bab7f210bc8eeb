import type { Writer } from '@ferry/schemas/event'

/** What deciding needs beside the folded log: given from outside, so that deciding touches nothing. */
export type World = {
  /** The present moment by the log server's clock, in milliseconds since 1970. */
  readonly now: number
  /** Hosts whose heartbeat was heard lately. */
  readonly alive: ReadonlySet<string>
  /** How long heartbeats could be heard without a break, until now, in milliseconds: only then is a host silent. */
  readonly listenedMs: number
  /** Hosts that were ever heard of: there may be some that a log which lost its tail does not know. */
  readonly known: ReadonlySet<string>
  /** Hosts that this coordinator has a command for to turn them off. */
  readonly canFence: ReadonlySet<string>
  readonly rules: Rules
  readonly me: Writer
}

/** What an operator can set about all migrations. */
export type Rules = {
  /** How many may be under way at once: out of one host, into one host, in the whole fleet. */
  readonly limits: {
    readonly perSource: number
    readonly perTarget: number
    readonly fleet: number
  }
  /**
   * After so long in a phase the attempt is cancelled; performing has the policy's own limit. While `switching` the guest
   * is paused: that one comes on top of the downtime which the policy allows.
   */
  readonly phaseLimitsMs: {
    readonly beginning: number
    readonly preparing: number
    readonly switching: number
  }
  /** A migration whose verdict is given ends after so long, with what a silent host still owes on record. */
  readonly settleMs: number
  /** A committed guest of which nothing is heard for so long is in doubt, and somebody is asked. */
  readonly doubtMs: number
  /** A host is silent, and all hosts that are on have been heard, only behind so long of listening without a break. */
  readonly listenMs: number
}

export const defaultRules: Rules = {
  limits: { perSource: 2, perTarget: 2, fleet: 20 },
  phaseLimitsMs: { beginning: 30_000, preparing: 60_000, switching: 3000 },
  settleMs: 120_000,
  doubtMs: 30_000,
  // An agent may take a while to come back to a log that was away.
  listenMs: 10_000,
}

/** Whoever is on and can be heard has been heard by now. */
export const hasListened = ({ listenedMs, rules }: World): boolean => listenedMs >= rules.listenMs

/** Nobody is given up on who could not be heard. */
export const isSilent = (host: string, world: World): boolean =>
  !world.alive.has(host) && hasListened(world)

import type { EventOf } from '@ferry/schemas/event'
import type { Policy } from '@ferry/schemas/policy'
import type { Say } from '@ferry/events/say'
import type { Pace } from './transfer/pace.ts'

/** The policy that a copy keeps to. Some of it can be changed while the copy is made. */
export type Dial = {
  readonly policy: () => Policy
  readonly turn: (policy: Policy) => void
  /**
   * Has each change put into effect, and at once the one that came since.
   *
   * @param since what is in effect; undefined: that is not known.
   * @returns what ends it.
   */
  readonly onTurn: (
    since: Policy | undefined,
    take: (policy: Policy) => Promise<void>,
  ) => () => void
}

/** @param failed hears why a change was not put into effect: the copy goes on without it. */
export function dialAt(policy: Policy, failed: (error: unknown) => void): Dial {
  const takers = new Set<(policy: Policy) => void>()
  let present = policy
  return {
    policy: () => present,
    turn: (next) => {
      present = next
      for (const take of takers) take(next)
    },
    onTurn: (since, take) => {
      const carefully = (next: Policy) => void take(next).catch(failed)
      takers.add(carefully)
      if (since !== present) carefully(present)
      return () => void takers.delete(carefully)
    },
  }
}

export const dialFor = ({ vm, data }: EventOf<'Perform'>, say: Say): Dial =>
  dialAt(data.policy, notTaken(vm, say))

const notTaken = (vm: string, say: Say) => (error: unknown) =>
  say.warn({ vm, err: error }, 'the new limits were not taken; the copy goes on without them')

/**
 * The same under a host's limit, for an image that this host does not see and so cannot hold back: its hypervisor is told.
 *
 * @returns how to end it as well.
 */
export function dialUnder(
  pace: Pace,
  dial: Dial,
  vm: string,
  say: Say,
): { readonly dial: Dial; readonly close: () => void } {
  const present = (): Policy => {
    const policy = dial.policy()
    const most = pace.bytesPerSecond()
    if (most === undefined) return policy
    const bandwidthBytesPerSecond = Math.min(most, policy.bandwidthBytesPerSecond ?? most)
    return { ...policy, bandwidthBytesPerSecond }
  }
  const lower = dialAt(present(), notTaken(vm, say))
  const turn = () => lower.turn(present())
  const forget = [dial.onTurn(dial.policy(), async () => turn()), pace.onLimit(turn)]
  return { dial: lower, close: () => forget.forEach((end) => end()) }
}

import type { EventOf } from '@ferry/schemas/event'
import type { Policy } from '@ferry/schemas/policy'
import type { Say } from '@ferry/events/say'

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
  dialAt(data.policy, (error) =>
    say.warn({ vm, err: error }, 'the new limits were not taken; the copy goes on without them'),
  )

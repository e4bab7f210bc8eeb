import type { EventOf } from '@ferry/schemas/event'
import type { Guarded } from '@ferry/events/log'
import type { CommandName } from '@ferry/events/phases'

/**
 * What a coordinator does next about one guest, from nothing but the folded log: what it writes now, and when it
 * should look again if nothing happens meanwhile.
 */
export type Step = {
  /** Decisions, admissions and verdicts: others may write at the same place, and the order of the log decides. */
  readonly decide?: Guarded
  readonly command: readonly EventOf<CommandName | 'Start'>[]
  readonly lookAgainAt?: number
}

export const rest: Step = { command: [] }

/** All that the steps say at once, and the first moment at which one of them wants to look again. */
export function soonest(steps: readonly Step[]): Step {
  const times = steps.flatMap(({ lookAgainAt }) => (lookAgainAt === undefined ? [] : [lookAgainAt]))
  return {
    command: steps.flatMap(({ command }) => command),
    ...(times.length === 0 ? {} : { lookAgainAt: Math.min(...times) }),
  }
}

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
  /** A host to be turned off, for the sake of one attempt. It takes long; what came of it is decided on then. */
  readonly fence?: FenceOrder
  readonly lookAgainAt?: number
}

export type FenceOrder = { readonly host: string; readonly admission: number }

export const rest: Step = { command: [] }

/** All that the steps say at once, and the first moment at which one of them wants to look again. */
export function soonest(steps: readonly Step[]): Step {
  const times = steps.flatMap(({ lookAgainAt }) => (lookAgainAt === undefined ? [] : [lookAgainAt]))
  const fence = steps.find((step) => step.fence !== undefined)?.fence
  return {
    command: steps.flatMap(({ command }) => command),
    ...(fence === undefined ? {} : { fence }),
    ...(times.length === 0 ? {} : { lookAgainAt: Math.min(...times) }),
  }
}

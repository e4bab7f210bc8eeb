import type { EventOf } from '@ferry/schemas/event'
import type { Guest } from '@ferry/events/guest'
import type { Attempt, Migration } from '@ferry/events/migration'
import { decisionOn } from './envelope.ts'
import { fencePatienceMs } from './patience.ts'
import type { FenceOrder, Step } from './step.ts'
import { rest } from './step.ts'
import { isSilent } from './world.ts'
import type { World } from './world.ts'

/** What came of turning a host off: by what, and what there is to show for it. */
export type FenceOutcome = {
  readonly isOff: boolean
  readonly by: string
  readonly evidence: string
}

const LOOK_AGAIN_MS = 1000

/**
 * Turning the target off, where a migration is in doubt and there is a command for that. Everything that runs on the
 * host goes with it: so never one whose agent is heard, and no more often than patience says. Nor one that has what nobody
 * else has all of (post-copy): that guest would be lost for certain, and it may be mended. People may still give it up.
 */
export function fence({ phase, attempt }: Migration, world: World): Step {
  const { slot, fenceFailed } = attempt
  const { canFence, now } = world
  if (phase !== 'inDoubt' || slot === undefined || !canFence.has(slot.target)) return rest
  if (hasGoneOver(attempt)) return rest
  const patienceMs = fencePatienceMs(fenceFailed?.times ?? 0)
  if (patienceMs === undefined) return rest
  const dueAt = (fenceFailed?.storedAt ?? now) + patienceMs
  if (dueAt > now) return { command: [], lookAgainAt: dueAt }
  // It may fall silent, and no entry in the log will tell.
  if (!isSilent(slot.target, world)) return { command: [], lookAgainAt: now + LOOK_AGAIN_MS }
  return { command: [], fence: { host: slot.target, admission: slot.admission } }
}

/** Behind an offer: the source has said that its guest cannot run there any more. */
const hasGoneOver = ({ facts }: Attempt): boolean =>
  facts.TargetFetching !== undefined ||
  (facts.SourcePaused?.data.offer !== undefined && facts.Performed !== undefined)

/** Is it still to be turned off? The target, or somebody else, may have answered since the order. */
export const isWanted = ({ migration }: Guest, { admission }: FenceOrder): boolean =>
  migration?.phase === 'inDoubt' && migration.attempt.slot?.admission === admission

/** The outcome as it is recorded; undefined where nobody waits for it any more. */
export function fenceReport(
  guest: Guest,
  order: FenceOrder,
  { isOff, by, evidence }: FenceOutcome,
  world: World,
): EventOf<'Fenced' | 'FenceFailed'> | undefined {
  const { migration } = guest
  if (migration === undefined || !isWanted(guest, order)) return undefined
  const type = isOff ? 'Fenced' : 'FenceFailed'
  const data = { after: guest.head, host: order.host, by, evidence }
  return { ...decisionOn(guest, migration, type, world), type, data }
}

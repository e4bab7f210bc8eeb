import type { EventOf } from '@ferry/schemas/event'
import { mustBeKnown } from './entry.ts'
import type { Log, Patience } from './log.ts'
import { isValidAfter } from './log.ts'
import { verdicts } from './subjects.ts'
import type { VerdictName } from './phases.ts'

/** The attempt whose verdict is meant. */
export type Contested = {
  readonly target: string
  readonly migration: string
  readonly attempt: number
}

/**
 * The verdict on an attempt, or undefined while there is none: the first valid message on its subject (I3).
 * The rule is the one that `fold` uses, so that a host which reads only this subject agrees with the whole fleet.
 *
 * @throws {NewerLog} when something stands there that this release cannot judge.
 */
export async function verdictOn(
  log: Log,
  contested: Contested,
  patience: Patience = {},
): Promise<EventOf<VerdictName> | undefined> {
  const subject = verdicts(contested.target, contested.migration, contested.attempt)
  let seen = 0
  for (;;) {
    const entry = await log.next(subject, seen, patience)
    if (entry === undefined) return undefined
    if (isValidAfter(entry, 0)) {
      const { event } = entry.message
      if (event.type === 'Committed' || event.type === 'Cancelled') return event
    }
    mustBeKnown(entry)
    seen = entry.position
  }
}

/** The same, as soon as there is one. @param after a position that is surely before it. */
export async function verdictAwaited(
  log: Log,
  { target, migration, attempt }: Contested,
  { after, signal }: { readonly after: number; readonly signal: AbortSignal },
): Promise<EventOf<VerdictName>> {
  const subject = verdicts(target, migration, attempt)
  for await (const entry of log.follow({ after, subject, signal })) {
    if (isValidAfter(entry, 0)) {
      const { event } = entry.message
      if (event.type === 'Committed' || event.type === 'Cancelled') return event
    }
    mustBeKnown(entry)
  }
  signal.throwIfAborted()
  throw new Error('the log was followed to an end that it does not have')
}

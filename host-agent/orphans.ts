import type { EventOf } from '@ferry/schemas/event'
import type { MadeFor } from '@ferry/schemas/guest'
import { commands } from '@ferry/events/subjects'
import { verdictOn } from '@ferry/events/verdict'
import type { MovingHands } from './hands.ts'
import { saysCleared } from './stale.ts'

/**
 * A copy that was made to receive a guest, and whose attempt has ended as Cancelled: nobody can want it any more. As a
 * rule its own command clears it; where that has got lost, an agent that begins clears it by the same verdict. Never
 * one that has run (D6), nor one on whose attempt the log says nothing yet, or Committed.
 */
export async function clearOrphans(
  needs: Pick<MovingHands, 'host' | 'log' | 'driver' | 'clock' | 'say'> & {
    /** Ends whatever is at work on a guest. */
    readonly stop: (vm: string) => Promise<void>
    /** Puts it into the log, as soon as its copy is gone. */
    readonly append: (fact: EventOf<'TargetCleared'>) => Promise<void>
    /** Nobody waits for the log behind this. */
    readonly signal: AbortSignal
  },
): Promise<void> {
  const { host, log, driver, say, stop, append, signal } = needs
  for (const { vm, receives, state } of await driver.inspect()) {
    if (receives === undefined || (state !== 'receiving' && state !== 'loaded')) continue
    const verdict = await verdictOn(log, { target: host, ...receives }, { signal })
    if (verdict?.type !== 'Cancelled') continue
    const prepare = await prepareOf(needs, vm, receives)
    if (prepare === undefined) continue
    const { migration, attempt } = receives
    say.warn({ vm, migration, attempt, state, verdict: verdict.id }, 'clearing what was left')
    try {
      await stop(vm)
      await driver.clear(vm)
    } catch (error) {
      if (signal.aborted) throw error
      say.error({ vm, migration, attempt, err: error }, 'it stays, and is left to the next agent')
      continue
    }
    const { traceparent, data } = prepare
    const about = { vm, migration, attempt, ...(traceparent === undefined ? {} : { traceparent }) }
    await append(saysCleared(about, verdict.id, { admission: data.admission }, needs))
  }
}

/** The command that the copy was made by. */
async function prepareOf(
  { host, log, signal }: Pick<MovingHands, 'host' | 'log'> & { readonly signal: AbortSignal },
  vm: string,
  { migration, attempt }: MadeFor,
): Promise<EventOf<'Prepare'> | undefined> {
  let found: EventOf<'Prepare'> | undefined
  const subject = commands(host, vm, 'Prepare')
  for await (const { message } of log.read({ after: 0, subject, signal }))
    if (message.is === 'event' && message.event.type === 'Prepare')
      if (message.event.migration === migration && message.event.attempt === attempt)
        found ??= message.event
  return found
}

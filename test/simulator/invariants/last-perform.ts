import type { EventOf } from '@ferry/schemas/event'
import { commands, verdicts } from '@ferry/events/subjects'
import type { LogServer } from '../log-server.ts'

/** The attempt in which a host was last asked to send a guest away: the one that its copy is bound by. */
export function lastPerformOn(
  server: LogServer,
  host: string,
  vm: string,
): EventOf<'Perform'> | undefined {
  const entry = server.last(commands(host, vm, 'Perform'))
  const event = entry?.message.is === 'event' ? entry.message.event : undefined
  return event?.type === 'Perform' ? event : undefined
}

/** The rule of I3 in its own words, so that a mistake in the fold does not excuse itself. */
export function firstVerdict(
  server: LogServer,
  attempt: { readonly target: string; readonly migration: string; readonly attempt: number },
): 'Committed' | 'Cancelled' | undefined {
  const subject = verdicts(attempt.target, attempt.migration, attempt.attempt)
  for (let entry = server.next(subject, 0); entry !== undefined;) {
    const { message, position } = entry
    if (message.is === 'event') {
      const { event } = message
      if ((event.type === 'Committed' || event.type === 'Cancelled') && event.data.after === 0)
        return event.type
    }
    entry = server.next(subject, position)
  }
  return undefined
}

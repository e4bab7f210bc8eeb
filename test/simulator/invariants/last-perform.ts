import type { Event, EventOf } from '@ferry/schemas/event'
import { commands, facts, verdicts } from '@ferry/events/subjects'
import type { LogServer } from '../log-server.ts'

/** The attempt in which a host was last asked to send a guest away: the one that its copy is bound by. */
export function lastPerformOn(
  server: LogServer,
  host: string,
  vm: string,
): EventOf<'Perform'> | undefined {
  return eventsOn(server, commands(host, vm, 'Perform')).findLast(
    (event) => event.type === 'Perform',
  )
}

/** Does the target say so itself? */
export const runs = (
  server: LogServer,
  { vm, migration, attempt, data }: EventOf<'Perform'>,
): boolean =>
  eventsOn(server, facts(data.target, vm, 'TargetRunning')).some(
    (event) =>
      event.type === 'TargetRunning' && event.migration === migration && event.attempt === attempt,
  )

const eventsOn = (server: LogServer, subject: string): Event[] =>
  server
    .behind(0, subject)
    .flatMap(({ message }) => (message.is === 'event' ? [message.event] : []))

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

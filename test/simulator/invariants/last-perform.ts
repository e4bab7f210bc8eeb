import type { Event, EventOf } from '@ferry/schemas/event'
import { commands, decisions, facts, verdicts } from '@ferry/events/subjects'
import type { LogServer } from '../log-server.ts'

/** The last attempt in which a host was asked to send a guest away, however late it was asked: the one that its copy is bound by. */
export function lastPerformOn(
  server: LogServer,
  host: string,
  vm: string,
): EventOf<'Perform'> | undefined {
  return eventsOn(server, commands(host, vm, 'Perform'))
    .flatMap((event) => (event.type === 'Perform' ? [event] : []))
    .toSorted((a, b) => a.data.admission - b.data.admission)
    .at(-1)
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

/** Does the log say that the host which answers was fenced in that attempt? */
export const wasFenced = (
  server: LogServer,
  { vm, migration, attempt, writer }: EventOf<'TargetCleared'>,
): boolean =>
  eventsOn(server, decisions(vm)).some(
    (event) =>
      event.type === 'Fenced' &&
      event.migration === migration &&
      event.attempt === attempt &&
      'host' in writer &&
      writer.host === event.data.host,
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

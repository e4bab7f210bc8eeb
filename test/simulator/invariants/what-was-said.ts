import type { Event, EventOf } from '@ferry/schemas/event'
import { commands, decisions, facts, filters, verdicts } from '@ferry/events/subjects'
import type { LogServer, Remembered } from '../log-server.ts'

/**
 * The last attempt in which a host was asked to send a guest away, however late it was asked: the one that its copy is
 * bound by. Also where the log has lost it since: the copy is what it was made.
 */
export function lastPerformOn(
  server: LogServer,
  host: string,
  vm: string,
): (EventOf<'Perform'> & { readonly askedAt: number }) | undefined {
  const known = new Set<string>()
  return server
    .everOn(commands(host, vm, 'Perform'))
    .flatMap(({ entry: { message, storedAt }, cameAfter }) => {
      if (message.is !== 'event' || message.event.type !== 'Perform') return []
      const { event } = message
      // Told again, even to a log that has lost it meanwhile, it is the same; an attempt that is made anew is another one.
      const { transfer } = event.data
      if (known.has(transfer)) return []
      known.add(transfer)
      return [{ ...event, askedAt: storedAt, cameAfter }]
    })
    .toSorted((a, b) => a.cameAfter - b.cameAfter || a.data.admission - b.data.admission)
    .at(-1)
}

type Asked = Pick<EventOf<'Perform'>, 'vm' | 'migration' | 'attempt'>

/** Did that host ever say this about an attempt, also where the log has lost it since? */
const said = (
  server: LogServer,
  host: string,
  name: 'Performed' | 'TargetRunning',
  { vm, migration, attempt }: Asked,
): boolean =>
  eventsOn(server, facts(host, vm, name)).some(
    (event) => event.type === name && event.migration === migration && event.attempt === attempt,
  )

/** The source offers it before all of it is out. */
export const offered = (
  server: LogServer,
  source: string,
  { vm, migration, attempt }: Asked,
): boolean =>
  eventsOn(server, facts(source, vm, 'SourcePaused')).some(
    (event) =>
      event.type === 'SourcePaused' &&
      event.migration === migration &&
      event.attempt === attempt &&
      event.data.offer !== undefined,
  )

/** The source says that all of it is out. */
export const performed = (server: LogServer, source: string, asked: Asked): boolean =>
  said(server, source, 'Performed', asked)

/** The target says that it runs. */
export const runs = (server: LogServer, asked: EventOf<'Perform'>): boolean =>
  said(server, asked.data.target, 'TargetRunning', asked)

/** Was that host fenced in that attempt? */
export const wasFenced = (
  server: LogServer,
  host: string,
  { vm, migration, attempt }: Asked,
): boolean =>
  eventsOn(server, decisions(vm)).some(
    (event) =>
      event.type === 'Fenced' &&
      event.migration === migration &&
      event.attempt === attempt &&
      event.data.host === host,
  )

/** Was it fenced by a word that the log has lost since, or that a recovery has answered? Whoever read it may still be at it. */
export function wasStale(server: LogServer, host: string, vm: string): boolean {
  const answeredAt = server.everOn(filters.recovery).at(-1)?.entry.storedAt ?? 0
  return server
    .everOn(decisions(vm))
    .some(
      ({ entry: { message, storedAt }, wentWith }) =>
        message.is === 'event' &&
        message.event.type === 'Fenced' &&
        message.event.data.host === host &&
        (wentWith !== undefined || storedAt < answeredAt),
    )
}

/** What recoveries said about a guest from then on, in their order. */
export const recoveries = (server: LogServer, vm: string, from: number) =>
  server.everOn(filters.recovery).flatMap(({ entry: { message, storedAt } }) => {
    if (message.is !== 'event' || message.event.type !== 'LogRecovered' || storedAt < from)
      return []
    const { guests, without } = message.event.data
    const guest = guests.find((each) => each.vm === vm)
    return guest === undefined ? [] : [{ ...guest, without }]
  })

const eventsOn = (server: LogServer, subject: string): Event[] =>
  server
    .everOn(subject)
    .flatMap(({ entry: { message } }) => (message.is === 'event' ? [message.event] : []))

type Attempt = { readonly target: string; readonly migration: string; readonly attempt: number }
type VerdictName = 'Committed' | 'Cancelled'

/** The rule of I3 in its own words, so that a mistake in the fold does not excuse itself. */
export const firstVerdict = (server: LogServer, attempt: Attempt): VerdictName | undefined =>
  firstAfter(server.losses(), onSubject(server, attempt))

/** The same at any time: a log that loses its tail may give another answer, and who acts has read one of them. */
export function everFirstVerdict(server: LogServer, attempt: Attempt): VerdictName[] {
  const on = onSubject(server, attempt)
  const lives = Array.from({ length: server.losses() + 1 }, (_, losses) => losses)
  return lives.flatMap((losses) => firstAfter(losses, on) ?? [])
}

const onSubject = (server: LogServer, { target, migration, attempt }: Attempt) =>
  server.everOn(verdicts(target, migration, attempt))

function firstAfter(losses: number, on: readonly Remembered[]): VerdictName | undefined {
  for (const { entry, cameAfter, wentWith } of on) {
    const { message } = entry
    if (message.is !== 'event' || cameAfter > losses) continue
    if (wentWith !== undefined && wentWith <= losses) continue
    const { event } = message
    if ((event.type === 'Committed' || event.type === 'Cancelled') && event.data.after === 0)
      return event.type
  }
  return undefined
}

import type { Event } from '@ferry/schemas/event'
import { messages } from '@ferry/schemas/messages'
import { decode, encode } from '@ferry/schemas/cloud-event'
import type { Fleet } from '@ferry/events/fleet'
import { underWay } from '@ferry/events/fleet'
import { subjectOf } from '@ferry/events/subjects'
import type { Chance } from './chance.ts'
import type { LogServer } from './log-server.ts'

/**
 * What somebody with a connection and bad luck, or bad will, puts into the log: on any subject junk, events of others,
 * and events on subjects that are not their writer's own. Not what a writer may say itself: who may write where is the
 * server's to enforce.
 */
export function strangeMessage(
  server: LogServer,
  chance: Chance,
): { subject: string; body: string } | undefined {
  const entry = server.entries[chance.whole(server.entries.length)]
  const other = server.entries[chance.whole(server.entries.length)]
  if (entry?.message.is !== 'event' || other === undefined) return undefined
  const { event } = entry.message
  const body = server.bodies[entry.position - 1] ?? ''
  const made = chance.pick([
    () => ({ subject: other.subject, body: chance.pick(junk) }),
    () => ({ subject: entry.subject, body: body.slice(0, chance.whole(body.length)) }),
    () => ({ subject: other.subject, body }),
    () => ({ subject: entry.subject, body: encode(saidBy(event, { host: 'stranger' })) }),
    () => ({ subject: entry.subject, body: encode(saidBy(event, { coordinator: 'stranger' })) }),
    () => ({ subject: entry.subject, body: body.replace(/"data":\{/, '"data":{"after":"x",') }),
  ])()
  // A fact of a host that has no part in it stands where it may, and is void all the same.
  const own = { ...event, writer: { host: 'stranger' } }
  if (messages[event.type].kind === 'fact' && chance.happens(0.2))
    return { subject: subjectOf(own) ?? '', body: encode(own) }
  // Chance may have made something that its writer could have said. What reads the log is not asked: it is looked at here.
  const read = decode(made.body)
  const isSayable = read.is === 'event' && subjectOf(read.event) === made.subject
  return isSayable ? undefined : made
}

/** Something that stands in the log already, on its own subject: its id has been forgotten, and somebody sends it again. */
export function repeatedMessage(
  { entries, bodies }: LogServer,
  fleet: Fleet,
  chance: Chance,
): { subject: string; body: string } | undefined {
  // What can be mistaken for news is about something that is under way, or was said by its attempt before.
  const present = new Set(underWay(fleet).map(({ id }) => id))
  const about = entries.slice(-LATELY).filter(({ message }) => {
    const event = message.is === 'event' ? message.event : undefined
    return event !== undefined && 'migration' in event && present.has(event.migration)
  })
  if (about.length === 0) return undefined
  const { subject, position } = chance.pick(about)
  return { subject, body: bodies[position - 1] ?? '' }
}

const LATELY = 300

/** What a coordinator should never write: agents must find out for themselves that it may not be obeyed. */
export function rashCommand(
  server: LogServer,
  fleet: Fleet,
  chance: Chance,
): { subject: string; body: string } | undefined {
  const { bodies, entries } = server
  const commands = entries.filter(({ subject }) => subject.startsWith('ferry.command.'))
  const [old] = commands.length === 0 ? [] : [chance.pick(commands)]
  if (old === undefined || chance.happens(0.5))
    return old && { subject: old.subject, body: bodies[old.position - 1] ?? '' }
  const migrations = underWay(fleet).filter(({ attempt }) => attempt.slot !== undefined)
  if (migrations.length === 0) return undefined
  const { id, vm, source, attempt } = chance.pick(migrations)
  const { admission = 0, target = '' } = attempt.slot ?? {}
  const envelope = {
    id: `rash-${entries.length}`,
    writer: { coordinator: 'rash' },
    time: new Date(0).toISOString(),
    vm,
    migration: id,
    attempt: attempt.number,
  }
  const [role, host] = chance.pick([
    ['source', source],
    ['target', target],
  ] as const)
  const event: Event = chance.happens(0.5)
    ? { ...envelope, type: 'Cancel', data: { host, admission, role, target } }
    : { ...envelope, type: 'Confirm', data: { host: source, admission, target } }
  return { subject: subjectOf(event) ?? '', body: encode(event) }
}

const junk = [
  '',
  '{',
  'null',
  '[]',
  '{"specversion":"1.0"}',
  '{"type":"dev.ferry.Fenced.v1"}',
  '\u0000',
]

const saidBy = (event: Event, writer: Event['writer']): Event => ({ ...event, writer })

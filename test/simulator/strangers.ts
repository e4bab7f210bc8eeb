import type { Event } from '@ferry/schemas/event'
import { encode } from '@ferry/schemas/cloud-event'
import { readEntry } from '@ferry/events/entry'
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
  // Chance may have made something that its writer could have said.
  const read = readEntry({ position: 1, storedAt: 0, ...made })
  return read.message.is === 'event' ? undefined : made
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

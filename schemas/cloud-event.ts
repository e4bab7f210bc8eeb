import { Type } from 'typebox'
import type { Event, Writer } from './event.ts'
import { messages } from './messages.ts'
import type { About, MessageName } from './messages.ts'
import { Invalid, fits, parse } from './parse.ts'
import { withKnownReasons } from './reasons.ts'
import { upgrade, upgrades } from './upgrade.ts'
import { Id, Name, Position, Timestamp } from './words.ts'

/**
 * The wire: CloudEvents 1.0, structured JSON. `encode` writes one, `decode` reads one and says what it is:
 * an event, void (malformed: visible and harmless), or of a type or version that this program does not know.
 */
export type Decoded =
  | { readonly is: 'event'; readonly event: Event }
  | { readonly is: 'void'; readonly why: string }
  | { readonly is: 'unknown'; readonly type: string; readonly about?: Meant }

/** Of which attempt, or which start, an unknown message speaks: enough to answer that it was not understood. */
export type Meant = { readonly id: string; readonly vm: string } & (
  | { readonly migration: string; readonly attempt: number; readonly admission: number }
  | { readonly start: string }
)

const TYPE = /^dev\.ferry\.([A-Za-z]{1,64})\.v([1-9]\d{0,3})$/
const SOURCE = /^\/(hosts|coordinators)\/(.+)$/

/** What stands in every envelope. `type`, `source` and the rest are CloudEvents' own words. */
const envelope = {
  specversion: Type.Literal('1.0'),
  id: Type.String({ minLength: 1, maxLength: 256 }),
  source: Type.String({ pattern: SOURCE.source, maxLength: 512 }),
  type: Type.String({ pattern: TYPE.source }),
  time: Timestamp,
  datacontenttype: Type.Literal('application/json'),
  causationid: Type.Optional(Type.String({ maxLength: 256 })),
  traceparent: Type.Optional(
    Type.String({ pattern: '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' }),
  ),
  data: Type.Record(Type.String(), Type.Unknown()),
}

/** What stands in the envelope as well, by what the message is about. */
const about = {
  migration: { subject: Name, migration: Id, attempt: Type.Integer({ minimum: 1 }) },
  guest: { subject: Name },
  writer: {},
} satisfies Record<About, object>

/** The whole shape of one message on the wire, for checking and for publishing. */
export function wireSchema(name: MessageName) {
  const { version, data, about: topic } = messages[name]
  return Type.Object({
    ...envelope,
    ...about[topic],
    type: Type.Literal(wireType(name, version)),
    data,
  })
}

/** The shortest time-ordered text that other tools read: what an event looks like in the log. */
export function encode(event: Event): string {
  const { type, id, writer, time, causationid, traceparent, data } = event
  return JSON.stringify({
    specversion: '1.0',
    id,
    source: sourceOf(writer),
    type: wireType(type, messages[type].version),
    ...('vm' in event ? { subject: event.vm } : {}),
    time,
    datacontenttype: 'application/json',
    ...('migration' in event ? { migration: event.migration, attempt: event.attempt } : {}),
    ...(causationid === undefined ? {} : { causationid }),
    ...(traceparent === undefined ? {} : { traceparent }),
    data,
  })
}

export function decode(text: string): Decoded {
  try {
    return read(JSON.parse(text))
  } catch (error) {
    if (error instanceof Invalid) return { is: 'void', why: error.message }
    if (error instanceof SyntaxError) return { is: 'void', why: `not JSON: ${error.message}` }
    throw error
  }
}

const Envelope = Type.Object(envelope)
const envelopesAbout = {
  migration: Type.Object(about.migration),
  guest: Type.Object(about.guest),
  writer: Type.Object(about.writer),
}

function read(value: unknown): Decoded {
  const wire = parse(Envelope, value, 'the message')
  const [, name = '', version = ''] = TYPE.exec(wire.type) ?? []
  if (!isMessageName(name)) return unknown(wire.type, value)
  const shape = messages[name]
  const current = upgrade(upgrades, name, Number(version), shape.version, wire.data)
  if (current === undefined || Number(version) > shape.version) return unknown(wire.type, value)

  const { id, time, causationid, traceparent } = wire
  const event = {
    type: name,
    id,
    writer: writerOf(wire.source),
    time,
    ...(causationid === undefined ? {} : { causationid }),
    ...(traceparent === undefined ? {} : { traceparent }),
    ...topicOf(shape.about, value),
    data: parse(shape.data, withKnownReasons(current), name),
  }
  // The parts were checked against the row of this very name; TypeScript cannot follow a name through a table.
  return { is: 'event', event: event as Event }
}

/** Whatever else stands in a message about an attempt, its slot does; in one about a start, the start's id. */
const AboutAttempt = Type.Object({
  id: envelope.id,
  ...about.migration,
  data: Type.Object({ admission: Position }),
})

const AboutStart = Type.Object({
  id: envelope.id,
  ...about.guest,
  data: Type.Object({ start: Id }),
})

function unknown(type: string, value: unknown): Decoded {
  if (fits(AboutAttempt, value)) {
    const { id, subject: vm, migration, attempt, data } = value
    const { admission } = data
    return { is: 'unknown', type, about: { id, vm, migration, attempt, admission } }
  }
  if (!fits(AboutStart, value)) return { is: 'unknown', type }
  const { id, subject: vm, data } = value
  return { is: 'unknown', type, about: { id, vm, start: data.start } }
}

function topicOf(topic: About, value: unknown) {
  if (topic === 'writer') return {}
  if (topic === 'guest') return { vm: parse(envelopesAbout.guest, value, 'the message').subject }
  const { subject, migration, attempt } = parse(envelopesAbout.migration, value, 'the message')
  return { vm: subject, migration, attempt }
}

const isMessageName = (name: string): name is MessageName => Object.hasOwn(messages, name)

const wireType = (name: MessageName, version: number) => `dev.ferry.${name}.v${version}`

const sourceOf = (writer: Writer) =>
  'host' in writer
    ? `/hosts/${encodeURIComponent(writer.host)}`
    : `/coordinators/${encodeURIComponent(writer.coordinator)}`

function writerOf(source: string): Writer {
  const [, kind, encoded = ''] = SOURCE.exec(source) ?? []
  const name = decoded(encoded)
  return kind === 'hosts' ? { host: name } : { coordinator: name }
}

function decoded(encoded: string): string {
  try {
    return decodeURIComponent(encoded)
  } catch {
    throw new Invalid('the message', '/source', encoded, 'must be a URI reference')
  }
}

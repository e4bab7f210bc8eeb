import { Type } from 'typebox'
import type { Static, TSchema } from 'typebox'
import { Invalid, parse } from '@ferry/schemas/parse'
import { Position } from '@ferry/schemas/words'
import type { Clock } from './clock.ts'
import type { Alarms } from './alarms.ts'
import type { EventEntry } from './entry.ts'
import { fingerprint, fingerprintParts } from './fleet.ts'
import type { Fleet, Host } from './fleet.ts'
import type { Guest } from './guest.ts'
import type { Migration } from './migration.ts'

/**
 * The fold at a position, put away so that a start need not read the whole log. It is never more than a shorter way
 * to the same state (I8): whatever is odd about one is a reason to take an older one, or to replay.
 *
 *     one line of JSON: the seal ⏎ the state, as the text that `fingerprint` gives
 */
const Seal = Type.Object({
  format: Type.Literal(1),
  /** Which fold gave this state; another one's is not trusted, because it may have judged the same events otherwise. */
  fold: Type.String(),
  /** What was folded last. If it does not stand there any more, this is another log, or one that lost its tail. */
  position: Position,
  subject: Type.String(),
  event: Type.String(),
  /** A copy of the log that was made by sending its events again has other times, and so another state. */
  storedAt: Type.Number(),
  /** Of the state's text. */
  sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
})
export type Seal = Static<typeof Seal>

export type Bytes = Uint8Array<ArrayBuffer>

/** SHA-256 in hexadecimal digits: by a thread of the runtime's, where nobody says otherwise. */
export type Digest = (bytes: Bytes) => Promise<string>

/** Why a snapshot is not used. The sentences are in `sentences.ts`. */
export type SnapshotFault =
  | { readonly type: 'Unreadable'; readonly problem: string }
  | { readonly type: 'OtherFold'; readonly fold: string }
  | { readonly type: 'Altered'; readonly expected: string; readonly found: string }
  | { readonly type: 'OtherLog'; readonly position: number; readonly event: string }

/**
 * The fleet as it is at the call, whatever is folded while the snapshot is made: entities are replaced, never changed.
 * Made a piece at a time, because a loop with a lease to keep must go on meanwhile.
 *
 * @param last the entry that was folded last: a snapshot stands behind an event, whose id tells that the log is the same.
 */
export async function snapshotOf(
  fleet: Fleet,
  last: EventEntry,
  edges: { readonly fold: string; readonly clock: Clock; readonly digest?: Digest },
): Promise<Bytes> {
  const { fold, clock, digest = sha256 } = edges
  const { guests, hosts, index, past } = fleet
  const now: Fleet = {
    ...fleet,
    guests: new Map(guests),
    hosts: new Map(hosts),
    index: new Map(index),
    past: new Map(past),
  }
  const pieces: Uint8Array[] = []
  let piece = ''
  for (const part of fingerprintParts(now)) {
    piece += part
    if (piece.length < PIECE) continue
    pieces.push(utf8.encode(piece))
    piece = ''
    await clock.sleep(0)
  }
  const state = joined([...pieces, utf8.encode(piece)])
  const seal: Seal = {
    format: 1,
    fold,
    position: now.position,
    subject: last.subject,
    event: last.message.event.id,
    storedAt: last.storedAt,
    sha256: await digest(state),
  }
  return joined([utf8.encode(`${JSON.stringify(seal)}\n`), state])
}

/** The fleet that was put away; nobody else holds it, so a replay may go on with it. Or what is wrong with it. */
export async function fleetFrom(
  snapshot: Bytes,
  fold: string,
  digest: Digest = sha256,
): Promise<{ readonly seal: Seal; readonly fleet: Fleet } | { readonly fault: SnapshotFault }> {
  try {
    const end = snapshot.indexOf(LINE_END)
    const seal = parse(Seal, jsonOf(snapshot.subarray(0, end)), "the snapshot's first line")
    if (seal.fold !== fold) return { fault: { type: 'OtherFold', fold: seal.fold } }
    const state = snapshot.subarray(end + 1)
    const found = await digest(state)
    if (found !== seal.sha256) return { fault: { type: 'Altered', expected: seal.sha256, found } }
    const fleet = fleetOf(jsonOf(state))
    if (fleet.position === seal.position) return { seal, fleet }
    return unreadable(`its state is that of position ${fleet.position}, not ${seal.position}`)
  } catch (error) {
    if (error instanceof Invalid || error instanceof SyntaxError || error instanceof TypeError)
      return unreadable(error.message)
    throw error
  }
}

/** What two folds of the same log must have in common (I8). */
export const hashOf = (fleet: Fleet): Promise<string> => sha256(utf8.encode(fingerprint(fleet)))

/** Made in one go without being felt: a millisecond or two. In characters. */
const PIECE = 128 * 1024
const LINE_END = '\n'.charCodeAt(0)

const named = <Entity extends TSchema>(entity: Entity) => Type.Tuple([Type.String(), entity])

/** The shape of the text that `fingerprint` gives. Inside an entity the hash vouches: the same fold wrote it. */
const State = Type.Tuple([
  Position,
  Position,
  Type.Union([Type.Null(), Type.Unsafe<NonNullable<Fleet['leader']>>(Type.Object({}))]),
  Type.Unsafe<Alarms>(Type.Object({})),
  Type.Array(named(Type.Unsafe<Guest>(Type.Object({})))),
  Type.Array(named(Type.Unsafe<Host>(Type.Object({})))),
  Type.Array(named(Type.String())),
  Type.Array(named(Type.Unsafe<Migration>(Type.Object({})))),
])

function fleetOf(value: unknown): Fleet {
  const parts = parse(State, value, 'its state')
  const [position, ledger, leader, alarms, guests, hosts, index, past] = parts
  return {
    position,
    ledger,
    ...(leader === null ? {} : { leader }),
    alarms,
    guests: new Map(guests),
    hosts: new Map(hosts),
    index: new Map(index),
    past: new Map(past),
  }
}

const unreadable = (problem: string) => ({ fault: { type: 'Unreadable', problem } as const })

const utf8 = new TextEncoder()
/** Throws a `TypeError` at bytes that are no text. */
const strict = new TextDecoder('utf-8', { fatal: true })
const jsonOf = (bytes: Uint8Array): unknown => JSON.parse(strict.decode(bytes))

async function sha256(bytes: Bytes): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

function joined(parts: readonly Uint8Array[]): Bytes {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

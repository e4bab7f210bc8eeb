import { decode } from '@ferry/schemas/cloud-event'
import type { Decoded } from '@ferry/schemas/cloud-event'
import type { Event } from '@ferry/schemas/event'
import { subjectOf } from './subjects.ts'

/** One message as it stands in the log. */
export type Entry = {
  /** Its place: the stream's sequence. */
  readonly position: number
  /** When the log's server stored it, in milliseconds since 1970 by that server's clock. */
  readonly storedAt: number
  readonly subject: string
  readonly message: Decoded
}

/** An entry that is an event which stands where it may. */
export type EventEntry = Entry & {
  readonly message: { readonly is: 'event'; readonly event: Event }
}

export const isEvent = (entry: Entry): entry is EventEntry => entry.message.is === 'event'

/**
 * The log holds something that only a newer release can have written, in a place where everybody must agree on what
 * counts: whoever does not know it may not go on as if it were not there.
 */
export class NewerLog extends Error {
  override readonly name = 'NewerLog'

  constructor({ position, subject }: Entry, type: string) {
    super(
      `${type} stands at position ${position} on ${subject}, and this release of Ferry does not know it; run a newer one`,
    )
  }
}

/** @throws {NewerLog} for what only a newer release can judge. */
export function mustBeKnown(entry: Entry): void {
  const { message } = entry
  if (message.is === 'unknown') throw new NewerLog(entry, message.type)
}

/** Reads a stored message. One that stands on a subject that is not its writer's own is void (I9). */
export function readEntry(stored: {
  position: number
  storedAt: number
  subject: string
  body: string
}): Entry {
  const { position, storedAt, subject, body } = stored
  return { position, storedAt, subject, message: placed(decode(body), subject) }
}

function placed(message: Decoded, subject: string): Decoded {
  if (message.is !== 'event') return message
  const own = subjectOf(message.event)
  if (own === subject) return message
  const why =
    own === undefined
      ? `${message.event.type} may not be said by this writer`
      : `${message.event.type} belongs on ${own}`
  return { is: 'void', why }
}

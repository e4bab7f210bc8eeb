import { headers } from 'nats'
import type { Msg, MsgHdrs } from 'nats'

/**
 * An answer that is larger than one message of NATS. It comes in parts, `1/3`, `2/3` and `3/3` by their headers, to who
 * said with the question that it takes parts. An older release does not, and another program need not.
 */
const TAKES_PARTS = 'Ferry-Takes-Parts'
const PART = 'Ferry-Part'

/** A part is no more than this, so that what else is to be sent does not wait long for it. */
const PART_BYTES = 512 * 1024
/** 50 MiB. NATS cuts off a receiver for whom 64 MiB wait. */
const MOST_PARTS = 100
const HEADERS_BYTES = 1024

export type Part = { readonly body: Uint8Array; readonly headers?: MsgHdrs }

/** More than may be sent to whoever asked. */
export class TooLarge extends Error {
  override readonly name = 'TooLarge'

  constructor(bytes: number, limitBytes: number, todo: string) {
    super(`the answer has ${bytes} bytes, and no more than ${limitBytes} can be sent: ${todo}`)
  }
}

/** What a question says with it. */
export function takingParts(): MsgHdrs {
  const said = headers()
  said.set(TAKES_PARTS, 'yes')
  return said
}

/**
 * @param messageBytes the most that the server takes in one message.
 * @throws {TooLarge}
 */
export function partsOf(body: Uint8Array, question: Msg, messageBytes: number): Part[] {
  if (body.length <= messageBytes) return [{ body }]
  if (question.headers?.has(TAKES_PARTS) !== true)
    throw new TooLarge(
      body.length,
      messageBytes,
      `ask with the header ${TAKES_PARTS}: yes, as the ferry of this release does`,
    )
  const partBytes = Math.min(PART_BYTES, messageBytes - HEADERS_BYTES)
  const count = Math.ceil(body.length / partBytes)
  if (count > MOST_PARTS)
    throw new TooLarge(body.length, MOST_PARTS * partBytes, "raise max_payload of NATS' servers")
  return Array.from({ length: count }, (_, nth) => {
    const said = headers()
    said.set(PART, `${nth + 1}/${count}`)
    return { body: body.subarray(nth * partBytes, (nth + 1) * partBytes), headers: said }
  })
}

/** A part was lost on its way, or is none. */
class PartMissing extends Error {
  override readonly name = 'PartMissing'

  constructor(wanted: string, found: string) {
    super(`part ${wanted} of an answer was to come, and ${found} came`)
  }
}

/** Puts an answer together again, of as many messages as the first one says. */
export async function joined(next: () => Promise<Msg>): Promise<Uint8Array> {
  const first = await next()
  const { count } = numbersOf(first)
  const bodies = [first.data]
  checkNumber(first, 1, count)
  while (bodies.length < count) {
    const message = await next()
    checkNumber(message, bodies.length + 1, count)
    bodies.push(message.data)
  }
  return Buffer.concat(bodies)
}

function checkNumber(message: Msg, number: number, count: number): void {
  const found = numbersOf(message)
  if (found.number !== number || found.count !== count)
    throw new PartMissing(`${number}/${count}`, `${found.number}/${found.count}`)
}

/** Which part of how many a message is; one without the header is all of it. */
function numbersOf({ headers: said }: Msg): { readonly number: number; readonly count: number } {
  const text = said?.get(PART) ?? ''
  if (text === '') return { number: 1, count: 1 }
  const [, number, count] = /^(\d{1,3})\/(\d{1,3})$/.exec(text) ?? []
  if (count === undefined || Number(count) > MOST_PARTS)
    throw new PartMissing(`of at most ${MOST_PARTS}`, text)
  return { number: Number(number), count: Number(count) }
}

import { ServiceError, ServiceErrorHeader, Svcm } from '@nats-io/services'
import type { ServiceMsg } from '@nats-io/services'
import { createInbox } from 'nats'
import type { Msg, NatsConnection } from 'nats'
import { within } from '../clock.ts'
import type { Clock } from '../clock.ts'
import { LogUnavailable } from '../log.ts'
import { apiGroup } from '../subjects.ts'
import { joined, partsOf, takingParts } from './parts.ts'
import type { Part } from './parts.ts'

/**
 * Request and reply over NATS, as a service that `nats micro ls` finds. Whoever of several servers is free answers.
 * Bodies are JSON; what they mean is the caller's matter.
 */
export type Verbs = {
  readonly [verb: string]: {
    readonly description: string
    readonly answer: (body: unknown) => Promise<unknown>
  }
}

export async function serve(
  nc: NatsConnection,
  about: { readonly version: string; readonly description: string },
  verbs: Verbs,
): Promise<{ stop: () => Promise<void> }> {
  const service = await new Svcm(nc).add({ name: 'ferry', queue: 'ferry', ...about })
  const group = service.addGroup(apiGroup)
  for (const [verb, { description, answer }] of Object.entries(verbs)) {
    group.addEndpoint(verb, {
      metadata: { description },
      handler: (error, message) => {
        if (error === null) void reply(nc, message, answer)
      },
    })
  }
  return { stop: async () => void (await service.stop()) }
}

async function reply(
  nc: NatsConnection,
  message: ServiceMsg,
  answer: Verbs[string]['answer'],
): Promise<void> {
  try {
    const body = Buffer.from(JSON.stringify(await answer(bodyOf(message))))
    const messageBytes = nc.info?.max_payload ?? DEFAULT_MESSAGE_BYTES
    await send(nc, message, partsOf(body, message, messageBytes))
  } catch (error) {
    // Who asked hears nothing, and asks again.
    if (nc.isClosed() || error instanceof SentInPart) return
    message.respondError(500, error instanceof Error ? error.message : String(error))
  }
}

async function send(
  nc: NatsConnection,
  message: ServiceMsg,
  [first, ...more]: readonly Part[],
): Promise<void> {
  if (first !== undefined) message.respond(first.body, first)
  for (const part of more) {
    // The lease is renewed over this connection as well: what waits to be sent goes between two parts.
    await nc.flush().catch((cause: unknown) => {
      throw new SentInPart({ cause })
    })
    message.respond(part.body, part)
  }
}

/** The connection was lost in the middle of an answer. */
class SentInPart extends Error {
  override readonly name = 'SentInPart'

  constructor(options: ErrorOptions) {
    super('a part of the answer was sent, and the connection was lost', options)
  }
}

/** What NATS takes in one message where nobody has said otherwise. */
const DEFAULT_MESSAGE_BYTES = 1024 * 1024

/** @returns undefined for what is not JSON: the verb's own shape will say what was wanted instead. */
function bodyOf(message: ServiceMsg): unknown {
  try {
    return message.json()
  } catch {
    return undefined
  }
}

/** The coordinator's service had trouble of its own: not a refusal. */
export class RequestFailed extends Error {
  override readonly name = 'RequestFailed'
}

/**
 * Asks until somebody answers. A question or its answer can get lost with a connection, so it is asked again: all verbs
 * are made so that asking twice is asking once. Each time it waits longer: who is slow is not lost.
 *
 * @throws {RequestFailed} with the coordinator's own words.
 * @throws {LogUnavailable} when nobody answered in time.
 */
export async function ask(
  nc: NatsConnection,
  clock: Clock,
  verb: string,
  body: unknown,
  patienceMs: number,
): Promise<unknown> {
  const began = clock.elapsed()
  const left = () => patienceMs - (clock.elapsed() - began)
  for (let waitMs = ANSWER_MS; ; waitMs *= 2) {
    try {
      return await answerTo(nc, verb, body, (what, wait) =>
        within(clock, Math.max(1, Math.min(waitMs, left())), what, wait),
      )
    } catch (error) {
      if (error instanceof RequestFailed) throw error
      if (left() < AGAIN_MS)
        throw new LogUnavailable('no coordinator answers', patienceMs, { cause: error })
    }
    await clock.sleep(AGAIN_MS)
  }
}

const AGAIN_MS = 200
/** Until a first answer begins, and between its parts. A coordinator that has to ask the log several times takes about a tenth of this. */
const ANSWER_MS = 3000

async function answerTo(
  nc: NatsConnection,
  verb: string,
  body: unknown,
  inTime: <T>(what: string, wait: Promise<T>) => Promise<T>,
): Promise<unknown> {
  // A question has an inbox of its own: the parts of an answer that came too late are not taken for those of the next.
  const inbox = createInbox()
  const subscription = nc.subscribe(inbox)
  const answers = subscription[Symbol.asyncIterator]()
  try {
    const question = { reply: inbox, headers: takingParts() }
    nc.publish(`${apiGroup}.${verb}`, JSON.stringify(body), question)
    const whole = await joined(async () => {
      const { value, done } = await inTime(`an answer to ${verb}`, answers.next())
      if (done === true) throw new Unanswered(verb)
      return checked(verb, value)
    })
    return JSON.parse(Buffer.from(whole).toString())
  } finally {
    subscription.unsubscribe()
  }
}

function checked(verb: string, message: Msg): Msg {
  if (message.headers?.code === NO_RESPONDERS) throw new Unanswered(verb)
  if (ServiceError.isServiceError(message))
    throw new RequestFailed(
      message.headers?.get(ServiceErrorHeader) ?? 'the coordinator had trouble',
    )
  return message
}

const NO_RESPONDERS = 503

/** Nobody listens there, or the connection was closed. */
class Unanswered extends Error {
  override readonly name = 'Unanswered'

  constructor(verb: string) {
    super(`nobody answers to ${verb}`)
  }
}

import { ServiceError, ServiceErrorHeader, Svcm } from '@nats-io/services'
import type { ServiceMsg } from '@nats-io/services'
import type { NatsConnection } from 'nats'
import { within } from '../clock.ts'
import type { Clock } from '../clock.ts'
import { LogUnavailable } from '../log.ts'
import { apiGroup } from '../subjects.ts'

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
        if (error === null) void reply(message, answer)
      },
    })
  }
  return { stop: async () => void (await service.stop()) }
}

async function reply(message: ServiceMsg, answer: Verbs[string]['answer']): Promise<void> {
  try {
    message.respond(JSON.stringify(await answer(bodyOf(message))))
  } catch (error) {
    message.respondError(500, error instanceof Error ? error.message : String(error))
  }
}

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
 * are made so that asking twice is asking once.
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
  for (;;) {
    try {
      const timeout = Math.max(1, Math.min(ANSWER_MS, left()))
      const request = nc.request(`${apiGroup}.${verb}`, JSON.stringify(body), { timeout })
      const reply = await within(clock, timeout, `an answer to ${verb}`, request)
      if (ServiceError.isServiceError(reply))
        throw new RequestFailed(
          reply.headers?.get(ServiceErrorHeader) ?? 'the coordinator had trouble',
        )
      return reply.json()
    } catch (error) {
      if (error instanceof RequestFailed) throw error
      if (left() < AGAIN_MS)
        throw new LogUnavailable('no coordinator answers', patienceMs, { cause: error })
    }
    await clock.sleep(AGAIN_MS)
  }
}

const AGAIN_MS = 200
/** A coordinator that has to ask the log several times takes about a tenth of this. */
const ANSWER_MS = 3000

import type { Event, EventOf, Writer } from '@ferry/schemas/event'
import { timestamp } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import type { Log } from '@ferry/events/log'
import type { CommandName, FactName } from '@ferry/events/phases'
import type { Say } from '@ferry/events/say'

export type Command = EventOf<CommandName>
export type Fact = EventOf<FactName>

/** A host's voice in the log: facts that answer commands. */
export type Voice = {
  /**
   * What stands around a fact. Its id is made of migration, attempt and name (and a number in a series), so that
   * saying it again after a crash changes nothing.
   */
  readonly about: (
    command: Command,
    name: FactName | 'Committed' | 'ProgressSampled',
    nth?: number,
  ) => Envelope
  /** Says something on the way: in order, and without being waited for. */
  readonly mention: (event: Event) => void
  /** Resolves when everything mentioned so far is in the log, or was given up. */
  readonly caughtUp: () => Promise<void>
}

type Envelope = {
  readonly id: string
  readonly writer: Writer
  readonly time: string
  readonly vm: string
  readonly migration: string
  readonly attempt: number
  readonly causationid: string
  readonly traceparent?: string
}

/** What is mentioned is of use while somebody watches; the answer that follows says what matters. */
const MENTION_MS = 60_000

export function makeVoice(edges: {
  readonly host: string
  readonly log: Log
  readonly clock: Clock
  readonly say: Say
  readonly signal: AbortSignal
}): Voice {
  const { host, log, clock, say, signal } = edges
  let mentioned: Promise<void> = Promise.resolve()
  return {
    about: (command, name, nth) => {
      const { id, vm, migration, attempt, traceparent } = command
      return {
        id: [migration, attempt, name, ...(nth === undefined ? [] : [nth])].join('.'),
        writer: { host },
        time: timestamp(clock.now()),
        vm,
        migration,
        attempt,
        causationid: id,
        ...(traceparent === undefined ? {} : { traceparent }),
      }
    },
    mention: (event) => {
      mentioned = mentioned.then(async () => {
        try {
          await log.append(event, { patienceMs: MENTION_MS, signal })
        } catch (error) {
          say.warn({ id: event.id, err: error }, 'could not be told')
        }
      })
    },
    caughtUp: () => mentioned,
  }
}

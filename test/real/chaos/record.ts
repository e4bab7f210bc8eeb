import { systemClock, within } from '@ferry/events/clock'
import type { Connection } from '@ferry/events/log/connect'
import type { Event } from '@ferry/schemas/event'
import { messages } from '@ferry/schemas/messages'

/** What the log says about one migration, as it comes. */
export type Telling = {
  readonly said: readonly Said[]
  /** Resolves with the first event of that name, also when it stands there already. */
  readonly first: (type: Event['type']) => Promise<Said>
  readonly close: () => void
}

export type Said = { readonly event: Event; readonly position: number; readonly storedAt: number }

const EVENT_MS = 60_000

export async function recordOf(
  { log }: Connection,
  migration: string,
  listener: (said: Said) => void,
): Promise<Telling> {
  const stop = new AbortController()
  const said: Said[] = []
  const waiting = new Set<(said: Said) => void>()
  const after = await log.head()
  const reading = (async () => {
    for await (const { message, position, storedAt } of log.follow({
      after,
      signal: stop.signal,
    })) {
      if (message.is !== 'event') continue
      const { event } = message
      if (!('migration' in event) || event.migration !== migration) continue
      const each = { event, position, storedAt }
      said.push(each)
      listener(each)
      for (const tell of waiting) tell(each)
    }
  })()
  reading.catch(() => {})
  return {
    said,
    first: async (type) => {
      const there = said.find(({ event }) => event.type === type)
      if (there !== undefined) return there
      let tell: (said: Said) => void = () => {}
      const coming = new Promise<Said>((resolve) => {
        tell = (each) => {
          if (each.event.type === type) resolve(each)
        }
        waiting.add(tell)
      })
      try {
        return await within(systemClock, EVENT_MS, `${type} of ${migration}`, coming)
      } finally {
        waiting.delete(tell)
      }
    },
    close: () => stop.abort(),
  }
}

/** Commands, decisions and verdicts move a migration on; facts only tell. */
export const isStep = ({ event }: Said): boolean =>
  ['command', 'decision', 'admission', 'verdict'].includes(messages[event.type].kind)

export const writerOf = ({ event }: Said): string =>
  'host' in event.writer ? event.writer.host : event.writer.coordinator

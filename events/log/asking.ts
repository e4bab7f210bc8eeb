import { within } from '../clock.ts'
import type { Clock } from '../clock.ts'
import { LogUnavailable } from '../log.ts'
import type { Patience } from '../log.ts'

/** How long one request to the log's server waits before it is sent again. */
export const ANSWER_MS = 1000
/** The pause before a request is sent again. */
export const AGAIN_MS = 100
/** How long the log may be silent before a caller hears `LogUnavailable`, unless it says otherwise. */
const PATIENCE_MS = 15_000

/** Asks the log's server until there is an answer. What it said is thrown at once; silence is asked again. */
export type Asking = {
  readonly ask: <T>(what: string, patience: Patience, request: () => Promise<T>) => Promise<T>
  /** It said something, asked or not. */
  readonly heard: () => void
  readonly silentForMs: () => number
}

export function makeAsking(edges: {
  readonly clock: Clock
  /** The server said no, and will say it again. Anything else (no leader yet, no answer) may pass. */
  readonly isDefinite: (error: unknown) => boolean
  readonly isClosed: () => boolean
}): Asking {
  const { clock, isDefinite, isClosed } = edges
  let heardAt = clock.elapsed()
  const heard = () => {
    heardAt = clock.elapsed()
  }
  return {
    heard,
    silentForMs: () => clock.elapsed() - heardAt,
    ask: async (what, { patienceMs = PATIENCE_MS, signal }, request) => {
      const began = clock.elapsed()
      for (;;) {
        signal?.throwIfAborted()
        const left = patienceMs - (clock.elapsed() - began)
        try {
          const answer = await within(clock, Math.max(1, left), what, request())
          heard()
          return answer
        } catch (error) {
          if (isDefinite(error)) {
            heard()
            throw error
          }
          const waited = clock.elapsed() - began
          if (isClosed() || waited + AGAIN_MS >= patienceMs)
            throw new LogUnavailable(what, waited, { cause: error })
        }
        await clock.sleep(AGAIN_MS, signal)
      }
    },
  }
}

import type { Clock } from '@ferry/events/clock'
import type { Entry } from '@ferry/events/entry'
import type { Log } from '@ferry/events/log'
import { LogLostTail } from '@ferry/events/log/witness'
import type { Say } from '@ferry/events/say'
import type { FoldedLast } from './start-from.ts'

/**
 * Follows one log and no other: whenever it comes back, what was taken from it last must still stand there before
 * anything more is taken. The watermark cannot tell: it remembers events that could be trusted, and a fold goes on over
 * junk, and while the log is being compared.
 */
export type SameLog = {
  /** @throws {LogLostTail} when what was taken last is not there any more. */
  readonly follow: (last: FoldedLast | undefined) => AsyncIterable<Entry>
  /** False from the log's return until it has been asked. */
  readonly isSame: () => boolean
  /** How often it came back. */
  readonly returns: () => number
  /** A signal for when it comes back the next time. */
  readonly untilReturn: () => AbortSignal
  readonly onSame: (act: () => void) => void
  readonly stop: () => void
}

const AGAIN_MS = 500

export function sameLog(edges: {
  readonly log: Log
  readonly clock: Clock
  readonly say: Say
  readonly signal: AbortSignal
}): SameLog {
  const { log, clock, say, signal } = edges
  let returned = new AbortController()
  let returns = 0
  let compared = 0
  let tell = () => {}
  const stop = log.onReturn(() => {
    returns += 1
    returned.abort()
    returned = new AbortController()
  })

  const isThere = async ({ subject, position, storedAt }: FoldedLast): Promise<boolean> => {
    for (;;) {
      const asked = returns
      try {
        const entry = await log.next(subject, position - 1, { signal })
        if (asked !== returns) continue
        compared = asked
        return entry?.position === position && entry.storedAt === storedAt
      } catch (error) {
        signal.throwIfAborted()
        say.warn({ err: error }, 'the log cannot be compared with what was folded; again')
        await clock.sleep(AGAIN_MS, signal)
      }
    }
  }
  async function* follow(last: FoldedLast | undefined) {
    let taken = last
    while (!signal.aborted) {
      // Also at the beginning: it may have come back while all that stood in it was read.
      if (compared !== returns) {
        if (taken === undefined) compared = returns
        else if (!(await isThere(taken)))
          throw new LogLostTail(`what was folded at position ${taken.position} on ${taken.subject}`)
        tell()
      }
      const mine = returns
      const until = AbortSignal.any([signal, returned.signal])
      for await (const entry of log.follow({ after: taken?.position ?? 0, signal: until })) {
        // What was still on its way to here when the log went away may be lost by now.
        if (mine !== returns) break
        taken = entry
        yield entry
      }
    }
  }
  return {
    follow,
    isSame: () => compared === returns,
    returns: () => returns,
    untilReturn: () => returned.signal,
    onSame: (act) => {
      tell = act
    },
    stop,
  }
}

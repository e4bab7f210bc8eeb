import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import type { Log } from '@ferry/events/log'
import { verdictOn } from '@ferry/events/verdict'
import type { Contested } from '@ferry/events/verdict'
import { CopyFailed } from './driver.ts'

/**
 * Rule 5 of "The point of no return": a guest is kept paused only while the log answers. While memory is copied the
 * gate asks the log for the verdict again and again; when the guest has been paused, it lets the switchover go on at
 * once if an answer came within the last 150 ms, and otherwise gives the log 250 ms more. From then on it asks more
 * often, so that before the end frame it can say the same of the last 40 ms.
 */
export type Gate = {
  /** @throws {CopyFailed} when the log is silent, or the verdict is there already: the guest must run on. */
  readonly pass: () => Promise<void>
  /** Whether it would open at once. */
  readonly isLogHeard: () => boolean
  readonly close: () => void
}

const ASK_EVERY_MS = 60
const FRESH_MS = 150
const ASK_EVERY_WHILE_PAUSED_MS = 15
const FRESH_WHILE_PAUSED_MS = 40
const LAST_CHANCE_MS = 250

export function openGate(log: Log, clock: Clock, contested: Contested): Gate {
  const closing = new AbortController()
  const openedAt = clock.elapsed()
  let answeredAt: number | undefined
  let isDecided = false
  let isPaused = false

  const ask = async (patienceMs: number) => {
    const askedAt = clock.elapsed()
    const verdict = await within(
      clock,
      patienceMs,
      'the log',
      verdictOn(log, contested, { patienceMs }),
    )
    isDecided ||= verdict !== undefined
    // As fresh as the question: what happened on the way back is not known.
    answeredAt = Math.max(answeredAt ?? askedAt, askedAt)
  }
  const silentForMs = () => clock.elapsed() - (answeredAt ?? openedAt)
  const isFresh = (withinMs: number) => answeredAt !== undefined && silentForMs() <= withinMs
  const keepAsking = async () => {
    for (;;) {
      await ask(LAST_CHANCE_MS).catch(() => {})
      await clock.sleep(isPaused ? ASK_EVERY_WHILE_PAUSED_MS : ASK_EVERY_MS, closing.signal)
    }
  }
  keepAsking().catch(() => {})

  return {
    pass: async () => {
      const freshMs = isPaused ? FRESH_WHILE_PAUSED_MS : FRESH_MS
      isPaused = true
      if (!isFresh(freshMs)) await ask(LAST_CHANCE_MS).catch(() => {})
      if (isDecided) throw new CopyFailed({ type: 'VerdictGiven' })
      if (!isFresh(freshMs + LAST_CHANCE_MS))
        throw new CopyFailed({ type: 'LogSilent', silentForMs: silentForMs() })
    },
    isLogHeard: () => isFresh(FRESH_MS),
    close: () => closing.abort(),
  }
}

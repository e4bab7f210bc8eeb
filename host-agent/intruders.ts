import { timestamp } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import type { Log } from '@ferry/events/log'
import type { Say } from '@ferry/events/say'
import type { Intruder } from './transfer/wire.ts'

/** One report for each kind of intrusion in so long: whoever knocks ten thousand times must not fill the log. */
const AT_MOST_EVERY_MS = 10_000

/** @returns what to call with everybody who was turned away at the transfer port. */
export function reportIntruders(edges: {
  readonly host: string
  readonly log: Log
  readonly clock: Clock
  readonly say: Say
  readonly signal: AbortSignal
}): (intruder: Intruder) => void {
  const { host, log, clock, say, signal } = edges
  const pending = new Map<string, { intruder: Intruder; times: number }>()
  const startedAt = Math.floor(clock.now())
  let number = 0

  const tell = async (intruder: Intruder, times: number) => {
    number += 1
    const id = `${host}.ConnectionRefused.${startedAt}.${number}`
    const data = { ...intruder, times }
    say.warn(data, 'turned away at the transfer port')
    try {
      const time = timestamp(clock.now())
      await log.append({ type: 'ConnectionRefused', id, writer: { host }, time, data }, { signal })
    } catch (error) {
      say.warn({ err: error }, 'could not be told')
    }
  }

  return (intruder) => {
    const waiting = pending.get(intruder.why)
    if (waiting !== undefined) {
      waiting.times += 1
      return
    }
    // The first is told at once; what follows is counted, and told together.
    const counted = { intruder, times: 0 }
    pending.set(intruder.why, counted)
    void tell(intruder, 1)
    clock
      .sleep(AT_MOST_EVERY_MS, signal)
      .catch(() => {})
      .then(() => {
        pending.delete(intruder.why)
        return counted.times > 0 ? tell(counted.intruder, counted.times) : undefined
      })
      .catch(() => {})
  }
}

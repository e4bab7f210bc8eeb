import type { Clock } from '@ferry/events/clock'

/**
 * No faster than allowed: a bucket that fills at the limit's rate and holds a fiftieth of a second's worth. One pace is
 * shared by all transfers out of a host. Once a guest is paused, its last bytes are not held back: `lift`.
 */
export type Pace = {
  /** Takes so many bytes out of the bucket. @returns how long to wait before the next are sent, in milliseconds. */
  readonly take: (bytes: number) => number
  readonly limit: (bytesPerSecond: number | undefined) => void
  readonly bytesPerSecond: () => number | undefined
  /** @returns what ends it. */
  readonly onLimit: (listener: () => void) => () => void
}

const BUCKET_SECONDS = 0.02

export function makePace(clock: Clock, bytesPerSecond?: number): Pace {
  let rate = bytesPerSecond
  let credit = 0
  let filledAt = clock.elapsed()
  const listeners = new Set<() => void>()
  return {
    take: (bytes) => {
      if (rate === undefined) return 0
      const now = clock.elapsed()
      credit = Math.min(rate * BUCKET_SECONDS, credit + ((now - filledAt) / 1000) * rate) - bytes
      filledAt = now
      return credit >= 0 ? 0 : (-credit / rate) * 1000
    },
    limit: (next) => {
      rate = next
      for (const tell of listeners) tell()
    },
    bytesPerSecond: () => rate,
    onLimit: (listener) => {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
  }
}

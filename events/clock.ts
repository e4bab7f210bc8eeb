/** Time as an argument: the pure parts get moments, the edges get a `Clock`, the tests bring their own. */
export interface Clock {
  /** Milliseconds since 1970 by this machine's clock; may jump when someone sets it. */
  now(): number
  /** Milliseconds since some moment; never goes back. Waits and time-outs are measured with it. */
  elapsed(): number
  /** Ends after so many milliseconds, or at once with the signal's reason when it is aborted. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
  /** Calls back after so many milliseconds. @returns how to prevent that. */
  after(ms: number, act: () => void): () => void
}

/** A timer of Node's that is to last longer fires at once: a long wait is several, one after the other. */
const LONGEST_MS = 2 ** 31 - 1

const after: Clock['after'] = (ms, act) => {
  let timer: ReturnType<typeof setTimeout>
  const wait = (left: number) => {
    const next = left > LONGEST_MS ? () => wait(left - LONGEST_MS) : act
    timer = setTimeout(next, Math.min(left, LONGEST_MS))
  }
  wait(ms)
  return () => clearTimeout(timer)
}

export const systemClock: Clock = {
  now: () => performance.timeOrigin + performance.now(),
  elapsed: () => performance.now(),
  sleep: sleepWith(after),
  after,
}

/** A clock's `sleep`, made of its `after`. */
export function sleepWith(later: Clock['after']): Clock['sleep'] {
  return (ms, signal) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(asError(signal.reason))
      const aborted = () => {
        prevent()
        reject(asError(signal?.reason))
      }
      const prevent = later(ms, () => {
        signal?.removeEventListener('abort', aborted)
        resolve()
      })
      signal?.addEventListener('abort', aborted, { once: true })
    })
}

/**
 * Gives a wait an end: resolves with the value, or throws `Overdue` with a name for what was waited for.
 * What is waited for goes on by itself; hand it a signal where that matters.
 */
export const within = <T>(clock: Clock, ms: number, what: string, wait: Promise<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    const prevent = clock.after(ms, () => reject(new Overdue(what, ms)))
    wait.then(resolve, reject).finally(prevent)
  })

export class Overdue extends Error {
  override readonly name = 'Overdue'
  readonly what: string
  readonly limitMs: number

  constructor(what: string, limitMs: number) {
    super(`${what} did not happen within ${limitMs} ms`)
    this.what = what
    this.limitMs = limitMs
  }
}

const asError = (reason: unknown): Error =>
  reason instanceof Error ? reason : new Error(String(reason))

/** A moment as an envelope's `time` wants it. */
export const timestamp = (ms: number): string => new Date(ms).toISOString()

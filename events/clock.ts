/** Time as an argument: the pure parts get moments, the edges get a `Clock`, the tests bring their own. */
export interface Clock {
  /** Milliseconds since 1970 by this machine's clock; may jump when someone sets it. */
  now(): number
  /** Milliseconds since some moment; never goes back. Waits and time-outs are measured with it. */
  elapsed(): number
  /** Ends after so many milliseconds, or at once with the signal's reason when it is aborted. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
}

export const systemClock: Clock = {
  now: () => performance.timeOrigin + performance.now(),
  elapsed: () => performance.now(),
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(asError(signal.reason))
      const aborted = () => {
        clearTimeout(timer)
        reject(asError(signal?.reason))
      }
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', aborted)
        resolve()
      }, ms)
      signal?.addEventListener('abort', aborted, { once: true })
    }),
}

/**
 * Gives a wait an end: resolves with the value, or throws `Overdue` with a name for what was waited for.
 * What is waited for goes on by itself; hand it a signal where that matters.
 */
export async function within<T>(
  clock: Clock,
  ms: number,
  what: string,
  wait: Promise<T>,
): Promise<T> {
  const stop = new AbortController()
  const overdue = clock.sleep(ms, stop.signal).then(() => {
    throw new Overdue(what, ms)
  })
  try {
    return await Promise.race([wait, overdue])
  } finally {
    stop.abort(NOT_OVERDUE)
    overdue.catch(() => {})
  }
}

/** The reason is given so that no exception has to be made each time that nothing was wrong. */
const NOT_OVERDUE = new Error('what was waited for has come')

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

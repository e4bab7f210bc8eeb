import { systemClock } from '@ferry/events/clock'

const LOOK_EVERY_MS = 10

/** Waits until something is so, within a limit; the error says what was waited for. Who has to work to look, looks less often. */
export async function until(
  what: string,
  isIt: () => boolean | Promise<boolean>,
  limitMs = 30_000,
  lookEveryMs = LOOK_EVERY_MS,
): Promise<void> {
  const began = systemClock.elapsed()
  while (!(await isIt())) {
    if (systemClock.elapsed() - began > limitMs) throw new Error(`waited ${limitMs} ms for ${what}`)
    await systemClock.sleep(lookEveryMs)
  }
}

import type { Clock } from '@ferry/events/clock'

/**
 * Which rounds are told: the first ones all, later ones at most once a second. A guest that never converges passes
 * twenty a second, and the log keeps everything for ever; each round that is told carries its number and totals.
 */
export function roundsWorthTelling(clock: Clock): () => boolean {
  let told = 0
  let toldAt = Number.NEGATIVE_INFINITY
  return () => {
    const now = clock.elapsed()
    if (told >= ALWAYS_TOLD && now - toldAt < AT_MOST_EVERY_MS) return false
    told += 1
    toldAt = now
    return true
  }
}

const ALWAYS_TOLD = 10
const AT_MOST_EVERY_MS = 1000

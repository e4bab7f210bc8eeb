import { sleepWith } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'

/**
 * Simulated time: it stands still while anybody has something to do, and then jumps to the next moment for which
 * somebody waits. Everything that happens later than now is a timer here, so one order of things is the only one.
 */
export type Time = {
  readonly now: () => number
  readonly at: (moment: number, act: () => void) => Timer
  readonly after: (ms: number, act: () => void) => Timer
  /** Lets the next moment come, and all that follows from it. False: nobody waits for anything. */
  readonly step: () => Promise<boolean>
}

export type Timer = { readonly cancel: () => void }

type Waiting = { readonly at: number; readonly nth: number; act: (() => void) | undefined }

/** Some Tuesday, so that nothing looks like zero. */
const BEGINS_AT = Date.UTC(2026, 0, 6, 12)

export function simulatedTime(): Time {
  const heap: Waiting[] = []
  let now = BEGINS_AT
  let count = 0
  const at = (moment: number, act: () => void): Timer => {
    const waiting: Waiting = { at: Math.max(now, moment), nth: count++, act }
    push(heap, waiting)
    return { cancel: () => (waiting.act = undefined) }
  }
  return {
    now: () => now,
    at,
    after: (ms, act) => at(now + ms, act),
    step: async () => {
      let next = pop(heap)
      while (next !== undefined && next.act === undefined) next = pop(heap)
      if (next === undefined) return false
      now = next.at
      next.act?.()
      await settled()
      return true
    },
  }
}

/** Promises, ticks and immediates have run out: whoever could go on without waiting has done so. */
const settled = () => new Promise<void>((resolve) => setImmediate(resolve))

/** One machine's clocks on simulated time: set wrong by `offsetMs`, and `drift` times as fast. */
export function clockOn(
  time: Time,
  { offsetMs, drift }: { offsetMs: number; drift: number },
): Clock {
  const began = time.now()
  const elapsed = () => (time.now() - began) * drift
  const after: Clock['after'] = (ms, act) => time.after(ms / drift, act).cancel
  return { now: () => began + offsetMs + elapsed(), elapsed, sleep: sleepWith(after), after }
}

const isBefore = (a: Waiting, b: Waiting) => a.at < b.at || (a.at === b.at && a.nth < b.nth)

function push(heap: Waiting[], waiting: Waiting): void {
  heap.push(waiting)
  let at = heap.length - 1
  while (at > 0) {
    const above = (at - 1) >> 1
    const parent = heap[above]
    if (parent === undefined || !isBefore(waiting, parent)) break
    heap[at] = parent
    at = above
  }
  heap[at] = waiting
}

function pop(heap: Waiting[]): Waiting | undefined {
  const first = heap[0]
  const last = heap.pop()
  if (first === undefined || last === undefined || heap.length === 0) return first
  let at = 0
  for (;;) {
    let below = 2 * at + 1
    const [left, right] = [heap[below], heap[below + 1]]
    if (left === undefined) break
    let child = left
    if (right !== undefined && isBefore(right, left)) {
      child = right
      below += 1
    }
    if (!isBefore(child, last)) break
    heap[at] = child
    at = below
  }
  heap[at] = last
  return first
}

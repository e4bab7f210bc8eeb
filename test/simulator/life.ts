import type { Clock } from '@ferry/events/clock'
import { clockOn } from './time.ts'
import type { Time } from './time.ts'

/**
 * One life of a process, from its start to its death. The shipped code cannot be stopped in the middle; but all that it
 * can do goes through its edges, and those of a dead process never answer again. A frozen one (SIGSTOP, a machine that
 * swaps) hears everything when it wakes up.
 */
export type Life = {
  readonly node: string
  readonly clock: Clock
  readonly isDead: () => boolean
  /** Neither dead nor frozen, and no call that was begun in it is still under way. */
  readonly isAtRest: () => boolean
  readonly during: <T>(call: Promise<T>) => Promise<T>
  /** What an edge answers: at once, after the freeze, or never. */
  readonly heard: <T>(answer: Promise<T>) => Promise<T>
  /** Acts when the process can take it: now, after the freeze, or never. */
  readonly whenAwake: (act: () => void) => void
  /** A step was taken: here it may die. */
  readonly step: () => void
  readonly freeze: (ms: number) => void
  readonly die: () => void
  readonly onDeath: (act: () => void) => void
}

export function live(options: {
  readonly node: string
  readonly time: Time
  readonly wrong: { readonly offsetMs: number; readonly drift: number }
  readonly mayCrash: () => boolean
}): Life {
  const { node, time, wrong, mayCrash } = options
  const mourners: (() => void)[] = []
  let held: (() => void)[] | undefined
  let isDead = false
  let calls = 0

  const whenAwake = (act: () => void) => {
    if (isDead) return
    if (held === undefined) act()
    else held.push(act)
  }
  const heard = <T>(answer: Promise<T>) =>
    new Promise<T>((resolve, reject) => {
      answer.then(
        (value) => whenAwake(() => resolve(value)),
        (error: unknown) =>
          whenAwake(() => reject(error instanceof Error ? error : new Error(String(error)))),
      )
    })
  const die = () => {
    if (isDead) return
    isDead = true
    held = undefined
    for (const act of mourners) act()
  }
  const plain = clockOn(time, wrong)
  return {
    node,
    clock: {
      ...plain,
      sleep: (ms, signal) => heard(plain.sleep(ms, signal)),
      after: (ms, act) => {
        let isWanted = true
        const prevent = plain.after(ms, () => whenAwake(() => isWanted && act()))
        return () => {
          isWanted = false
          prevent()
        }
      },
    },
    isDead: () => isDead,
    isAtRest: () => !isDead && held === undefined && calls === 0,
    during: (call) => {
      calls += 1
      return call.finally(() => (calls -= 1))
    },
    heard,
    whenAwake,
    step: () => {
      if (!isDead && mayCrash()) die()
    },
    freeze: (ms) => {
      if (held !== undefined || isDead) return
      held = []
      time.after(ms, () => {
        const waiting = held ?? []
        held = undefined
        for (const act of waiting) whenAwake(act)
      })
    },
    die,
    onDeath: (act) => void mourners.push(act),
  }
}

/** Where a dead process's code stays: it waits for something that never comes. */
export const never = <T>(): Promise<T> => new Promise<T>(() => {})

import { setMaxListeners } from 'node:events'
import type { Clock } from '@ferry/events/clock'
import type { Wire } from '@ferry/host-agent/transfer/wire'

/**
 * The life of one process inside this one, so that it can be killed at any line. When it is over, whatever it was given
 * does nothing for it any more: what it asks for is not done, what it waits for never comes, its connections are cut.
 */
export type Life = {
  /** The thing as this life may use it. */
  readonly hold: <T extends object>(thing: T) => T
  readonly wire: (wire: Wire) => Wire
  /** Its timers end with it. */
  readonly clock: (clock: Clock) => Clock
  /** What the system does for a process that has ended; at once, if it has. */
  readonly atEnd: (act: () => void) => void
  readonly end: () => void
}

export function newLife(): Life {
  let isOver = false
  const acts: (() => void)[] = []
  const atEnd = (act: () => void) => (isOver ? act() : void acts.push(act))

  const heldBack = <T>(work: Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      const ifAlive = (then: () => void) => {
        if (!isOver) then()
      }
      work.then(
        (value) => ifAlive(() => resolve(value)),
        (error: unknown) =>
          ifAlive(() => reject(error instanceof Error ? error : new Error(String(error)))),
      )
    })
  async function* all(source: AsyncIterable<unknown>) {
    for await (const each of source) {
      if (isOver) break
      yield each
    }
    if (isOver) await never
  }
  const held = (answer: unknown): unknown => {
    if (answer instanceof Promise) return heldBack(answer)
    return isIterable(answer) ? all(answer) : answer
  }

  const hold = <T extends object>(thing: T): T =>
    new Proxy(thing, {
      get: (target, name) => {
        const member: unknown = Reflect.get(target, name)
        if (typeof member !== 'function') return member
        return (...words: unknown[]): unknown =>
          isOver ? stillborn : held(Reflect.apply(member, target, words))
      },
    })
  const over = new AbortController()
  setMaxListeners(0, over.signal)

  return {
    hold,
    clock: (clock) =>
      hold({
        ...clock,
        sleep: (ms, signal) =>
          clock.sleep(
            ms,
            signal === undefined ? over.signal : AbortSignal.any([signal, over.signal]),
          ),
      }),
    wire: (wire) => ({
      listen: async (at, door) => {
        const listening = await wire.listen(at, {
          ...door,
          visit: (visit) => {
            atEnd(() => visit.stream.destroy())
            door.visit(visit)
          },
        })
        atEnd(() => void listening.close())
        return listening
      },
      connect: async (ticket, signal) => {
        const stream = await wire.connect(ticket, signal)
        atEnd(() => stream.destroy())
        return stream
      },
      admit: (visit, key) => wire.admit(visit, key),
    }),
    atEnd,
    end: () => {
      isOver = true
      over.abort()
      for (const act of acts.splice(0)) act()
    },
  }
}

const never = new Promise<never>(() => {})

/** The answer to whatever is asked after the end, be it waited for or followed. */
const stillborn = Object.assign(new Promise<never>(() => {}), {
  [Symbol.asyncIterator]: () => ({ next: () => never }),
})

const isIterable = (answer: unknown): answer is AsyncIterable<unknown> =>
  typeof answer === 'object' && answer !== null && Symbol.asyncIterator in answer

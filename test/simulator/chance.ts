/**
 * Chance from a seed. Each thing that may happen draws from a stream of its own, so that taking one fault away changes
 * as little as possible of the rest: that is what lets a failing run be made smaller.
 */
export type Chance = {
  /** 0 <= x < 1 */
  readonly next: () => number
  readonly happens: (probability: number) => boolean
  /** At least `from`, below `to`. */
  readonly between: (from: number, to: number) => number
  readonly whole: (below: number) => number
  readonly pick: <T>(things: readonly T[]) => T
  readonly bytes: (count: number) => Uint8Array
}

export type Chances = (name: string) => Chance

export function chances(seed: number): Chances {
  const streams = new Map<string, Chance>()
  return (name) => {
    const known = streams.get(name)
    if (known !== undefined) return known
    const made = chanceFrom(hash(`${seed}/${name}`))
    streams.set(name, made)
    return made
  }
}

function chanceFrom(start: number): Chance {
  let state = start >>> 0
  // Mulberry32: 32 bits of state are plenty for one stream of one run.
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const whole = (below: number) => Math.floor(next() * below)
  return {
    next,
    whole,
    happens: (probability) => probability > 0 && next() < probability,
    between: (from, to) => from + next() * (to - from),
    pick: <T>(things: readonly T[]): T => {
      const thing = things[whole(things.length)]
      if (thing === undefined) throw new Error('nothing to pick from')
      return thing
    },
    bytes: (count) => Uint8Array.from({ length: count }, () => whole(256)),
  }
}

/** FNV-1a: neighbouring seeds and names must give streams that have nothing in common. */
function hash(text: string): number {
  let value = 0x811c9dc5
  for (let at = 0; at < text.length; at++)
    value = Math.imul(value ^ text.charCodeAt(at), 0x01000193)
  return value
}

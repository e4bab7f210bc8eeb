/** One thing that `ferry doctor` looked at: what was found, and what to do about it where it is not good. */
export type Check = {
  readonly what: string
  readonly is: 'good' | 'doubtful' | 'bad'
  readonly found: string
  readonly todo?: string
}

export const good = (what: string, found: string): Check => ({ what, is: 'good', found })
export const doubtful = (what: string, found: string, todo: string): Check => ({
  what,
  is: 'doubtful',
  found,
  todo,
})
export const bad = (what: string, found: string, todo: string): Check => ({
  what,
  is: 'bad',
  found,
  todo,
})

import type { Lab } from '../real/lab.ts'

/** What the demo plays on: a fleet with one guest, and a way to look at it from outside. */
export type Stage = {
  readonly lab: Lab
  /** The guest, in a few words. */
  readonly description: string
  /** @throws where not exactly one copy of the guest exists and runs. */
  readonly look: () => Promise<Seen>
  readonly close: () => Promise<void>
}

export type Seen = {
  readonly host: string
  /** What is wrong with its memory; undefined when nothing is. */
  readonly fault: string | undefined
  readonly pages: number
  /** How far it has come with its work, in this unit. */
  readonly count: number
  readonly unit: string
}

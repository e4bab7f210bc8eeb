import { Type } from 'typebox'
import type { Static } from 'typebox'
import { Version } from './words.ts'

/** Which versions of a format somebody reads and writes: all of them from the lowest to the highest. */
export const Versions = Type.Object({ lowest: Version, highest: Version })
export type Versions = Static<typeof Versions>

/** What agents spoke before they said which: they still do, and say nothing of it. */
export const firstVersion: Versions = { lowest: 1, highest: 1 }

/** The newest decisions that this release can judge: 2 knows `LimitsSet`. A host that does not say so judges the first. */
export const DECISIONS_VERSION = 2

/** The lower of both highest; undefined where the other one does not go so far down. */
export function agreed(one: Versions, other: Versions): number | undefined {
  const version = nearest(one, other)
  return version >= other.lowest && version <= other.highest ? version : undefined
}

/** The version of one's own that is nearest to what the other one would choose. */
export const nearest = (own: Versions, other: Versions): number =>
  Math.max(own.lowest, Math.min(own.highest, other.highest))

/** Where they do not meet: the end of each that is nearest to the other. */
export const apart = (offered: Versions, supported: Versions) =>
  offered.highest < supported.lowest
    ? { offered: offered.highest, supported: supported.lowest }
    : { offered: offered.lowest, supported: supported.highest }

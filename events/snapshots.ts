import type { Bytes, Digest } from './snapshot.ts'

/**
 * Where snapshots are put away: the last few, so that a start survives one that was broken. Two keep these promises,
 * under one contract suite (`test/contract/snapshots.ts`): registers in NATS for real, and in memory for tests.
 *
 * Whoever may write there may tell a coordinator what has happened: in NATS, coordinators only.
 */
export interface Snapshots {
  /** The fold whose states these are. */
  readonly fold: string
  /** How they are hashed, where that is not to be left to the runtime. */
  readonly digest?: Digest
  /** The names of what stands there, the one that was written last first. */
  list(): Promise<readonly string[]>
  /** @throws whatever says that it is not whole. */
  read(name: string): Promise<Bytes>
  /** Takes the place of the oldest when there are `KEPT`. One that is broken off spoils that place and no other. */
  write(snapshot: Bytes): Promise<void>
}

export const KEPT = 3

import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { isEvent } from '@ferry/events/entry'
import type { Entry, EventEntry } from '@ferry/events/entry'
import type { Fleet } from '@ferry/events/fleet'
import type { Say } from '@ferry/events/say'
import { snapshotOf } from '@ferry/events/snapshot'
import type { Snapshots } from '@ferry/events/snapshots'

/** Entries between two snapshots. */
export const defaultSnapshotEvery = 10_000

/**
 * The leader puts its fold away every so many entries, and when it is stopped. The loop neither waits for that nor
 * fails by it: one snapshot that could not be written is one that will be written later.
 */
export function keepSnapshots(edges: {
  readonly snapshots: Snapshots
  readonly every: number
  /** Where the last one stands; 0: there is none. */
  readonly from: number
  readonly clock: Clock
  readonly say: Say
}) {
  const { snapshots, every, clock, say } = edges
  let from = edges.from
  let last: EventEntry | undefined
  let isLeading = false
  let writing: Promise<void> | undefined

  const write = async (fleet: Fleet, behind: EventEntry) => {
    const { position } = fleet
    const began = clock.elapsed()
    from = position
    try {
      const made = snapshotOf(fleet, behind, { ...snapshots, clock })
      const written = made.then((snapshot) => snapshots.write(snapshot))
      await within(clock, WRITE_MS, 'writing a snapshot', written)
      say.info({ position, tookMs: Math.round(clock.elapsed() - began) }, 'snapshot written')
    } catch (error) {
      say.warn({ position, err: error }, 'the snapshot could not be written; a later one will be')
    }
    writing = undefined
  }

  const writeAfter = (fleet: Fleet, entries: number) => {
    // Behind an event, whose id tells a reader that the log is the same; behind anything else the next one is waited for.
    if (!isLeading || writing !== undefined || last?.position !== fleet.position) return
    if (fleet.position - from >= entries) writing = write(fleet, last)
  }

  return {
    folded: (entry: Entry) => {
      last = isEvent(entry) ? entry : undefined
    },
    /** After every turn of the loop: to lead, and to trust the log, may come without an entry. */
    turned: (fleet: Fleet, isLeader: boolean) => {
      isLeading = isLeader
      writeAfter(fleet, every)
    },
    /** Resolves when all is put away that is worth it, or has taken too long. */
    stop: async (fleet: Fleet) => {
      writeAfter(fleet, every / 10)
      if (writing !== undefined)
        await within(clock, STOP_MS, 'the last snapshot', writing).catch((error: unknown) =>
          say.warn({ err: error }, 'left behind'),
        )
    },
  }
}

const WRITE_MS = 30_000
const STOP_MS = 5000

import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import type { Entry } from '@ferry/events/entry'
import { isEvent } from '@ferry/events/entry'
import { replay } from '@ferry/events/fleet'
import type { Fleet } from '@ferry/events/fleet'
import type { Log } from '@ferry/events/log'
import type { Say } from '@ferry/events/say'
import { snapshotFaultSentence } from '@ferry/events/sentences'
import { fleetFrom } from '@ferry/events/snapshot'
import type { Seal, SnapshotFault } from '@ferry/events/snapshot'
import type { Snapshots } from '@ferry/events/snapshots'

/**
 * The fold of the log up to now, from the newest snapshot that is valid and belongs to this log; from the first entry
 * when there is none. A snapshot only saves time (I8): every trouble with one is said, and the next older one tried.
 */
export async function startFrom(start: {
  readonly snapshots: Snapshots
  readonly log: Log
  readonly clock: Clock
  readonly say: Say
  readonly signal: AbortSignal
  /** The entries behind a position, up to the head. */
  readonly read: (after: number) => AsyncIterable<Entry>
}): Promise<{
  readonly fleet: Fleet
  readonly from: number
  /** What was folded last. */
  readonly last: FoldedLast | undefined
}> {
  const { clock, say, read } = start
  const began = clock.elapsed()
  const found = await newestValid(start)
  const from = found?.fleet.position ?? 0
  let last: FoldedLast | undefined = found?.seal
  async function* rest() {
    for await (const entry of read(from)) {
      last = entry
      yield entry
    }
  }
  const fleet = await replay(rest(), found?.fleet)
  const tookMs = Math.round(clock.elapsed() - began)
  say.info(
    { position: fleet.position, guests: fleet.guests.size, snapshot: from, tookMs },
    'the log is folded',
  )
  return { fleet, from, last }
}

export type FoldedLast = Pick<Entry, 'position' | 'subject' | 'storedAt'>

/** What a snapshot says, if it can be trusted: whole, of this fold, and its last event stands where it stood. */
export async function openSnapshot(
  name: string,
  snapshots: Snapshots,
  log: Log,
  signal?: AbortSignal,
): Promise<{ seal: Seal; fleet: Fleet } | { fault: SnapshotFault }> {
  const opened = await fleetFrom(await snapshots.read(name), snapshots.fold, snapshots.digest)
  if ('fault' in opened) return opened
  const { subject, position, event, storedAt } = opened.seal
  const standing = await log.next(subject, position - 1, signal === undefined ? {} : { signal })
  const isSame =
    standing?.position === position &&
    standing.storedAt === storedAt &&
    isEvent(standing) &&
    standing.message.event.id === event
  return isSame ? opened : { fault: { type: 'OtherLog', position, event } }
}

type Start = Parameters<typeof startFrom>[0]

async function newestValid({ snapshots, log, clock, say, signal }: Start) {
  const timely = <T>(what: string, reading: Promise<T>) => within(clock, READ_MS, what, reading)
  const names = await timely('listing the snapshots', snapshots.list()).catch((error: unknown) => {
    say.warn({ err: error }, 'the snapshots cannot be listed; the whole log is read')
    return []
  })
  for (const name of names) {
    if (signal.aborted) return undefined
    try {
      const opened = await timely('reading a snapshot', openSnapshot(name, snapshots, log, signal))
      if ('fleet' in opened) return opened
      say.warn({ snapshot: name, fault: opened.fault }, snapshotFaultSentence(opened.fault))
    } catch (error) {
      say.warn({ snapshot: name, err: error }, 'this snapshot cannot be read')
    }
  }
  return undefined
}

/** For one snapshot. Longer, and reading the log is quicker. */
const READ_MS = 30_000

import { bad, doubtful, good } from '@ferry/events/check'
import type { Check } from '@ferry/events/check'
import type { Entry } from '@ferry/events/entry'
import { replay } from '@ferry/events/fleet'
import type { Connection } from '@ferry/events/log/connect'
import { snapshotFaultSentence } from '@ferry/events/sentences'
import { hashOf } from '@ferry/events/snapshot'
import { openSnapshot } from '../start-from.ts'
import { READING } from './reading.ts'

/** The newest snapshot: can a coordinator start from it, and does a full replay give the same state, by hash (I8)? */
export async function snapshotCheck(
  { log, snapshots }: Connection,
  { isReplayed }: { readonly isReplayed: boolean },
): Promise<Check> {
  const what = 'newest snapshot'
  const kept = await snapshots()
  let opened: Awaited<ReturnType<typeof openSnapshot>>
  try {
    const [newest] = await kept.list()
    if (newest === undefined) return good(what, 'none yet: a coordinator reads the whole log')
    opened = await openSnapshot(newest, kept, log)
  } catch (error) {
    return doubtful(what, `it cannot be read: ${String(error)}`, NEXT)
  }
  if ('fault' in opened) return doubtful(what, snapshotFaultSentence(opened.fault), NEXT)

  const { position, sha256 } = opened.seal
  const found = `position ${position}, ${sha256}`
  if (!isReplayed) return good(what, `${found}; --replay compares it with the log`)
  const replayed = await hashOf(await replay(upTo(position, log.read({ after: 0, ...READING }))))
  return replayed === sha256
    ? good(what, `${found}; a full replay gives ${replayed}`)
    : bad(
        what,
        `${found}, but a full replay gives ${replayed}`,
        'Delete them (nats kv del ferry_snapshots) and restart the coordinators; then report this, with the log.',
      )
}

const NEXT = 'Coordinators take an older one or read the whole log; the leader writes the next one.'

async function* upTo(
  position: number,
  entries: AsyncIterable<Entry>,
): AsyncGenerator<Entry, void, undefined> {
  for await (const entry of entries) {
    yield entry
    if (entry.position >= position) return
  }
}

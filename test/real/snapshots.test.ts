import type { Entry } from '@ferry/events/entry'
import type { Connection } from '@ferry/events/log/connect'
import { fleetFrom, hashOf } from '@ferry/events/snapshot'
import { replay } from '@ferry/events/fleet'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { asyncly } from '../events/stories.ts'
import { appendAll, longLog } from '../long-log.ts'
import { until } from '../until.ts'
import { openLab } from './lab.ts'
import type { Lab } from './lab.ts'

/** A coordinator with a long log behind it: real processes, started again and again. */
const test = suite('a long log')

/** More than stands between two snapshots. */
const LENGTH = 12_000

let lab: Lab
test.before(async () => {
  lab = await openLab({ hosts: [], driver: 'simulated' })
  await lab.coordinator.end()
  await appendAll(lab.connection.log, longLog(LENGTH))
})
test.after(async () => lab.close())

/** From where each start of the coordinator went on, by its own log. */
const starts = async (): Promise<number[]> =>
  [...(await lab.coordinator.log()).matchAll(/"snapshot":(\d+),"tookMs"/g)].map(([, position]) =>
    Number(position),
  )

async function restart(): Promise<number> {
  const before = (await starts()).length
  await lab.coordinator.end('SIGKILL')
  lab.coordinator.start()
  await until('the log to be folded', async () => (await starts()).length > before)
  await until('it to answer', async () => (await lab.fleet()).leader !== undefined)
  return (await starts()).at(-1) ?? 0
}

const names = async ({ snapshots }: Connection) => (await snapshots()).list()

test('is read whole once; then the leader puts its fold away, and after kill -9 the next start takes it', async () => {
  assert.is(await restart(), 0)
  await until('a snapshot', async () => (await names(lab.connection)).length === 1)
  const from = await restart()
  assert.ok(from >= LENGTH, `from ${from}`)

  const kept = await lab.connection.snapshots()
  const [name = ''] = await kept.list()
  const opened = await fleetFrom(await kept.read(name), kept.fold)
  if ('fault' in opened) throw new Error(opened.fault.type)
  assert.is(opened.seal.position, from)
  // Read once for both: a leader may be writing that it leads.
  const entries: Entry[] = []
  for await (const entry of lab.connection.log.read({ after: 0 })) entries.push(entry)
  const later = entries.filter(({ position }) => position > from)
  assert.is(
    await hashOf(await replay(asyncly(later), opened.fleet)),
    await hashOf(await replay(asyncly(entries))),
  )
})

test('has its snapshot compared with a full replay by the doctor, who says both hashes', async () => {
  const { stdout } = await lab.ferry('doctor', '--replay')
  const [, kept, replayed] =
    /newest snapshot +position \d+, ([0-9a-f]{64}); a full replay gives ([0-9a-f]{64})/.exec(
      stdout,
    ) ?? []
  assert.ok(kept !== undefined && kept === replayed, stdout)
  assert.match((await lab.ferry('doctor')).stdout, /--replay compares it with the log/)
})

test('is read whole again when its snapshot was spoiled, and that is said', async () => {
  const [name = ''] = await names(lab.connection)
  const subject = `$KV.ferry_snapshots.snapshot.${name}.part.0`
  await lab.connection.nc.request(subject, 'bm9uc2Vuc2U=')
  assert.match((await lab.ferry('doctor')).stdout, /doubtful +newest snapshot +it cannot be read/)
  assert.is(await restart(), 0)
  assert.match(await lab.coordinator.log(), /this snapshot cannot be read/)
  // And the next one is written.
  await until('another snapshot', async () => (await names(lab.connection)).length === 2)
  assert.ok((await restart()) >= LENGTH)
})

test.run()

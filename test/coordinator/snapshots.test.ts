import { keepSnapshots } from '@ferry/coordinator/keep-snapshots'
import { startFrom } from '@ferry/coordinator/start-from'
import { systemClock } from '@ferry/events/clock'
import type { Entry } from '@ferry/events/entry'
import { emptyFleet, follow, replay } from '@ferry/events/fleet'
import { memoryLog } from '@ferry/events/log/in-memory'
import type { MemoryLog } from '@ferry/events/log/in-memory'
import { memoryRegisters } from '@ferry/events/log/in-memory-registers'
import { registerSnapshots } from '@ferry/events/log/register-snapshots'
import type { Say } from '@ferry/events/say'
import { hashOf } from '@ferry/events/snapshot'
import type { Snapshots } from '@ferry/events/snapshots'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { hostReported } from '../events/examples.ts'
import { fleetInProcess, silent } from '../fleet-in-process.ts'
import { longLog } from '../long-log.ts'
import { until } from '../until.ts'

const test = suite("a coordinator's snapshots")

const EVERY = 100
const clock = systemClock
/** The same log can be made twice. */
const logClock = { ...systemClock, now: () => 1_790_000_000_000 }

async function logOf(length: number): Promise<MemoryLog> {
  const log = memoryLog(logClock)
  for (const event of longLog(length, 5)) await log.append(event)
  return log
}

const entriesOf = async (log: MemoryLog): Promise<Entry[]> => {
  const entries: Entry[] = []
  for await (const entry of log.read({ after: 0 })) entries.push(entry)
  return entries
}

/** What a leader that follows the log from its beginning puts away. */
async function keepAlong(log: MemoryLog, snapshots: Snapshots, say = silent): Promise<void> {
  const fleet = emptyFleet()
  const keeper = keepSnapshots({ snapshots, every: EVERY, from: 0, clock, say })
  for (const entry of await entriesOf(log)) {
    follow(fleet, entry)
    keeper.folded(entry)
    keeper.turned(fleet, true)
    // Each one gets the time to be written: the log of a fleet does not come in one breath.
    if (entry.position % EVERY === 0) await keeper.stop(fleet)
  }
}

/** Starts from them, checks that it is the state of a full replay, and tells from where it went on and what it said. */
async function started(log: MemoryLog, snapshots: Snapshots) {
  const said: string[] = []
  const hear = (...words: unknown[]) => void said.push(words.map((word) => asText(word)).join(' '))
  const say: Say = { ...silent, warn: hear }
  const readFrom: number[] = []
  const read = (after: number) => {
    readFrom.push(after)
    return log.read({ after })
  }
  const { signal } = new AbortController()
  const { fleet, from } = await startFrom({ snapshots, log, clock, say, signal, read })
  assert.is(await hashOf(fleet), await hashOf(await replay(log.read({ after: 0 }))))
  assert.equal(readFrom, [from])
  return { from, said }
}

const asText = (word: unknown) => (typeof word === 'string' ? word : (JSON.stringify(word) ?? ''))

function places() {
  const registers = memoryRegisters(clock)
  return { registers, snapshots: registerSnapshots(registers, 'this fold') }
}

test('a start without any reads the whole log, and one with some reads what is behind the newest', async () => {
  const log = await logOf(350)
  const { snapshots } = places()
  assert.equal(await started(log, snapshots), { from: 0, said: [] })
  await keepAlong(log, snapshots)
  assert.equal(await started(log, snapshots), { from: 300, said: [] })
})

test('from a broken one the start goes to the next older one, and says why', async () => {
  const log = await logOf(350)
  const { registers, snapshots } = places()
  await keepAlong(log, snapshots)
  const [newest = '', older = ''] = await snapshots.list()
  await registers.put(`snapshot.${newest}.part.0`, 'bm9uc2Vuc2U=')
  const found = await started(log, snapshots)
  assert.is(found.from, 200)
  assert.match(found.said.join(), /cannot be read/)

  await registers.put(`snapshot.${older}.head`, 'no JSON')
  for (const name of await snapshots.list())
    await registers.put(`snapshot.${name}.part.0`, 'bm9uc2Vuc2U=')
  const none = await started(log, snapshots)
  assert.is(none.from, 0)
  assert.is(none.said.length, 3)
})

test('on a log that was made anew, no old one is used', async () => {
  const { snapshots } = places()
  await keepAlong(await logOf(350), snapshots)
  for (const length of [0, 250, 400]) {
    const found = await started(await logOf(length), snapshots)
    assert.is(found.from, 0)
    assert.match(found.said.join(), /the log was made anew, or has lost its tail/)
  }
})

test('on a log that lost its tail, the one before the loss is used', async () => {
  const log = await logOf(350)
  const { snapshots } = places()
  await keepAlong(log, snapshots)
  const shorter = memoryLog(logClock)
  for (const { message } of (await entriesOf(log)).slice(0, 250))
    if (message.is === 'event') await shorter.append(message.event)
  const found = await started(shorter, snapshots)
  assert.is(found.from, 200)
  assert.is(found.said.length, 1)
})

test('another version of Ferry reads the whole log', async () => {
  const log = await logOf(350)
  const { registers, snapshots } = places()
  await keepAlong(log, snapshots)
  const found = await started(log, registerSnapshots(registers, 'a newer fold'))
  assert.is(found.from, 0)
  assert.match(found.said.join(), /Another version of Ferry made it/)
})

test('where they stand can be out of reach: the whole log is read', async () => {
  const { snapshots } = places()
  const away = { ...snapshots, list: () => Promise.reject(new Error('no answer')) }
  const found = await started(await logOf(120), away)
  assert.is(found.from, 0)
  assert.match(found.said.join(), /cannot be listed/)
})

test('one that cannot be written holds nobody up; the next one is written', async () => {
  const { snapshots } = places()
  let tries = 0
  const fails: Snapshots = {
    ...snapshots,
    write: async (snapshot) => {
      tries += 1
      if (tries === 1) throw new Error('the disk is full')
      await snapshots.write(snapshot)
    },
  }
  const warned: unknown[] = []
  await keepAlong(await logOf(250), fails, {
    ...silent,
    warn: (...words: unknown[]) => void warned.push(words),
  })
  assert.is(tries, 2)
  assert.is(warned.length, 1)
  assert.is((await snapshots.list()).length, 1)
})

test('who does not lead writes none; nobody writes behind junk; who is stopped writes one if it is worth it', async () => {
  const log = await logOf(150)
  log.inject('ferry.fact.rack1.vm0.SourcePaused', 'junk')
  const entries = await entriesOf(log)
  const { snapshots } = places()
  const fleet = emptyFleet()
  const keeper = keepSnapshots({ snapshots, every: EVERY, from: 0, clock, say: silent })
  const fold = (entry: Entry, isLeader: boolean) => {
    follow(fleet, entry)
    keeper.folded(entry)
    keeper.turned(fleet, isLeader)
  }
  for (const entry of entries.slice(0, 149)) fold(entry, false)
  await keeper.stop(fleet)
  assert.equal(await snapshots.list(), [])
  const [event, junk] = entries.slice(149)
  if (event === undefined || junk === undefined) throw new Error('the log is too short')
  follow(fleet, event)
  fold(junk, true)
  await keeper.stop(fleet)
  assert.equal(await snapshots.list(), [])

  const { position } = await log.append(hostReported('rack3'))
  for (const entry of (await entriesOf(log)).slice(position - 1)) fold(entry, true)
  await keeper.stop(fleet)
  assert.is((await started(log, snapshots)).from, position)
})

test('who comes to lead, or to trust the log, behind its last entry writes one without another entry', async () => {
  const log = await logOf(150)
  const { snapshots } = places()
  const fleet = emptyFleet()
  const keeper = keepSnapshots({ snapshots, every: EVERY, from: 0, clock, say: silent })
  for (const entry of await entriesOf(log)) {
    follow(fleet, entry)
    keeper.folded(entry)
    keeper.turned(fleet, false)
  }
  keeper.turned(fleet, true)
  await until('a snapshot', async () => (await snapshots.list()).length === 1)
  assert.is((await started(log, snapshots)).from, 150)
})

test('a coordinator that is replaced goes on from what its predecessor put away', async () => {
  const said: object[] = []
  const say: Say = { ...silent, info: (what: unknown) => void said.push(Object(what)) }
  const fleet = await fleetInProcess(['rack1', 'rack2'], { snapshotEvery: 5, say })
  try {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ vm: 'web1', request: 'm1' })
    await fleet.ended('m1')
    await until('a snapshot', () => said.some((each) => 'position' in each && 'tookMs' in each))
    await fleet.replaceCoordinator()
    const starts = said.flatMap((each) => ('snapshot' in each ? [each.snapshot] : []))
    assert.is(starts[0], 0)
    assert.ok(Number(starts[1]) > 0, JSON.stringify(starts))
    await fleet.migrate({ vm: 'web1', request: 'm2' })
    assert.is((await fleet.ended('m2')).phase, 'completed')
    await until('the state of a full replay', async () => {
      const whole = await replay(fleet.log.read({ after: 0 }))
      return (await hashOf(fleet.coordinator().fleet())) === (await hashOf(whole))
    })
  } finally {
    await fleet.close()
  }
})

test.run()

import { memoryKnownHosts } from '@ferry/coordinator/known-hosts'
import { coordinate } from '@ferry/coordinator/coordinate'
import { defaultRules } from '@ferry/coordinator/decide/world'
import { defaultSnapshotEvery } from '@ferry/coordinator/keep-snapshots'
import { defaultLease } from '@ferry/coordinator/lease'
import { systemClock as clock, within } from '@ferry/events/clock'
import { memoryLog } from '@ferry/events/log/in-memory'
import type { MemoryLog } from '@ferry/events/log/in-memory'
import { memoryRegisters } from '@ferry/events/log/in-memory-registers'
import { registerSnapshots } from '@ferry/events/log/register-snapshots'
import { decisions, facts } from '@ferry/events/subjects'
import { memoryWatermark } from '@ferry/events/watermark'
import { encode } from '@ferry/schemas/cloud-event'
import type { Event } from '@ferry/schemas/event'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { cancelAsked, sourcePaused } from '../events/examples.ts'
import { silent } from '../fleet-in-process.ts'

const test = suite('the end of a coordinator')

const coordinatorOn = (log: MemoryLog, signal: AbortSignal) =>
  coordinate({
    name: 'c1',
    log,
    leases: memoryRegisters(clock),
    heartbeats: memoryRegisters(clock),
    snapshots: registerSnapshots(memoryRegisters(clock), 'this fold'),
    snapshotEvery: defaultSnapshotEvery,
    clock,
    rules: defaultRules,
    lease: defaultLease,
    watermark: memoryWatermark(),
    knownHosts: memoryKnownHosts(),
    settleMs: 0,
    say: silent,
    signal,
  })

test('told to end while it is still reading the log, it ends', async () => {
  const coordinator = await coordinatorOn(memoryLog(clock), AbortSignal.abort())
  await within(clock, 10_000, 'its end', coordinator.ended)
})

const fromTheFuture = (event: Event) => encode(event).replace(/\.v1"/, '.v2"')

test("a newer host's word does not end it; what only a newer coordinator can have decided does, by name", async () => {
  const log = memoryLog(clock)
  const stop = new AbortController()
  log.inject(facts('rack1', 'web1', 'SourcePaused'), fromTheFuture(sourcePaused()))
  const coordinator = await coordinatorOn(log, stop.signal)
  assert.is(coordinator.fleet().position, 1)
  log.inject(decisions('web1'), fromTheFuture(cancelAsked()))
  const why = await within(
    clock,
    10_000,
    'its end',
    coordinator.ended.catch((error: unknown) => String(error)),
  )
  assert.match(
    String(why),
    /dev\.ferry\.CancelAsked\.v2 stands at position \d+ on ferry\.decision\.web1/,
  )
  stop.abort()
})

test.run()

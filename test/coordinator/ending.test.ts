import { coordinate } from '@ferry/coordinator/coordinate'
import { defaultRules } from '@ferry/coordinator/decide/world'
import { defaultSnapshotEvery } from '@ferry/coordinator/keep-snapshots'
import { defaultLease } from '@ferry/coordinator/lease'
import { systemClock, within } from '@ferry/events/clock'
import { memoryLog } from '@ferry/events/log/in-memory'
import { memoryRegisters } from '@ferry/events/log/in-memory-registers'
import { registerSnapshots } from '@ferry/events/log/register-snapshots'
import { memoryWatermark } from '@ferry/events/watermark'
import { suite } from 'uvu'
import { silent } from '../fleet-in-process.ts'

const test = suite('the end of a coordinator')

test('told to end while it is still reading the log, it ends', async () => {
  const clock = systemClock
  const coordinator = await coordinate({
    name: 'c1',
    log: memoryLog(clock),
    leases: memoryRegisters(clock),
    heartbeats: memoryRegisters(clock),
    snapshots: registerSnapshots(memoryRegisters(clock), 'this fold'),
    snapshotEvery: defaultSnapshotEvery,
    clock,
    rules: defaultRules,
    lease: defaultLease,
    watermark: memoryWatermark(),
    settleMs: 0,
    say: silent,
    signal: AbortSignal.abort(),
  })
  await within(clock, 10_000, 'its end', coordinator.ended)
})

test.run()

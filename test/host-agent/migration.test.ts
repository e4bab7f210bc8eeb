import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { fleetInProcess } from '../fleet-in-process.ts'
import type { FleetInProcess } from '../fleet-in-process.ts'

const test = suite('a migration of a simulated guest')

test('goes there, and back again', async () => {
  const fleet = await fleetInProcess(['rack1', 'rack2'])
  try {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    const there = await fleet.ended('m1')
    assert.is(there.phase, 'completed')
    assert.is(stateOn(fleet, 'rack1'), undefined)
    assert.is(stateOn(fleet, 'rack2'), 'running')
    await fleet.migrate({ request: 'm2', vm: 'web1' })
    assert.is((await fleet.ended('m2')).phase, 'completed')
    assert.is(stateOn(fleet, 'rack1'), 'running')
    assert.is(stateOn(fleet, 'rack2'), undefined)
  } finally {
    await fleet.close()
  }
})

const stateOn = ({ hosts }: FleetInProcess, host: string) =>
  hosts.get(host)?.world.guests.get('web1')?.state

test.run()

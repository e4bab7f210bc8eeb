import { CopyFailed } from '@ferry/host-agent/driver'
import type { Driver } from '@ferry/host-agent/driver'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { withFleet } from '../fleet-in-process.ts'
import type { FleetInProcess } from '../fleet-in-process.ts'
import { until } from '../until.ts'

/** Copies that were made to receive a guest and were left: what an agent that begins does about them. */
const test = suite('a copy that was left')

const two = ['rack1', 'rack2']

const places = ({ hosts }: FleetInProcess) =>
  [...hosts].flatMap(([host, { world }]) =>
    [...world.guests.values()].map(({ vm, state }) => `${host} ${vm} ${state}`),
  )

/** rack2's hypervisor takes no image at first, and says that it has cleared the copy, and has not. */
const clearsNothing = () => {
  let isFirst = true
  return (driver: Driver): Driver => ({
    ...driver,
    receive: async (vm, order) => {
      if (!isFirst) return driver.receive(vm, order)
      throw new CopyFailed({ type: 'HypervisorFailed', message: 'it does not want to' })
    },
    clear: async (vm) => {
      if (!isFirst) return driver.clear(vm)
      isFirst = false
    },
  })
}

/** A guest stays on rack1, and a copy of it is left on rack2. */
async function leaveOne(fleet: FleetInProcess, vm: string, request: string): Promise<void> {
  await fleet.start(vm, 'rack1')
  await fleet.migrate({ request, vm, target: 'rack2', policy: { attempts: 1 } })
  assert.is((await fleet.ended(request)).phase, 'abandoned')
}

async function leaveCopy(fleet: FleetInProcess): Promise<void> {
  await leaveOne(fleet, 'web1', 'm1')
  assert.equal(places(fleet), ['rack1 web1 running', 'rack2 web1 receiving'])
}

/** Starts rack2's agent anew, and waits until it has looked around: only then does it obey. */
async function beginAnew(fleet: FleetInProcess): Promise<void> {
  await fleet.hosts.get('rack2')?.stopAgent()
  fleet.hosts.get('rack2')?.startAgent()
  await fleet.start('db1', 'rack2')
  fleet.hosts.get('rack2')?.world.guests.delete('db1')
}

test('is cleared by the verdict on its attempt, and the guest may go there again', () =>
  withFleet(two, { drivers: clearsNothing() }, async (fleet) => {
    await leaveCopy(fleet)
    await beginAnew(fleet)
    assert.equal(places(fleet), ['rack1 web1 running'])
    await until('rack2 to have said so', async () => {
      const asked = await fleet.migrate({ request: 'm2', vm: 'web1', target: 'rack2' })
      return asked.accepted
    })
    assert.is((await fleet.ended('m2')).phase, 'completed')
    assert.equal(places(fleet), ['rack2 web1 running'])
  }))

test('is cleared though another one cannot be', async () => {
  let isBroken = true
  const drivers = (driver: Driver, host: string): Driver => ({
    ...driver,
    receive: async () => {
      throw new CopyFailed({ type: 'HypervisorFailed', message: 'it does not want to' })
    },
    clear: async (vm) => {
      if (isBroken) return
      if (host === 'rack2' && vm === 'web1') throw new Error('it is stuck')
      await driver.clear(vm)
    },
  })
  await withFleet(two, { drivers }, async (fleet) => {
    await leaveOne(fleet, 'web1', 'm1')
    await leaveOne(fleet, 'web2', 'm2')
    isBroken = false
    await beginAnew(fleet)
    assert.equal(places(fleet), [
      'rack1 web1 running',
      'rack1 web2 running',
      'rack2 web1 receiving',
    ])
  })
})

for (const [what, change] of [
  ['has run', { state: 'running' as const }],
  ['has lost its mark', { receives: undefined }],
  [
    'belongs to an attempt of which the log knows nothing',
    { receives: { migration: 'm9', attempt: 1 } },
  ],
  ['belongs to an attempt that has no verdict', { receives: { migration: 'm1', attempt: 2 } }],
] as const)
  test(`that ${what} stays`, () =>
    withFleet(two, { drivers: clearsNothing() }, async (fleet) => {
      await leaveCopy(fleet)
      const copy = fleet.hosts.get('rack2')?.world.guests.get('web1')
      assert.ok(copy)
      Object.assign(copy, change)
      const before = places(fleet)
      await beginAnew(fleet)
      assert.equal(places(fleet), before)
    }))

test('while its attempt goes on is left to it', () =>
  withFleet(two, { vm: { memoryMiB: 16, pagesPerSecond: 500 } }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    const policy = { bandwidthBytesPerSecond: 8_000_000 }
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2', policy })
    await fleet.when('m1', ({ attempt }) => attempt.facts.RoundPassed !== undefined, 'to copy')
    fleet.hosts.get('rack2')?.crashAgent()
    const { attempt } = await fleet.ended('m1')
    assert.is(attempt.number, 2)
    assert.equal(places(fleet), ['rack2 web1 running'])
  }))

test.run()

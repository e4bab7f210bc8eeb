import type { Driver } from '@ferry/host-agent/driver'
import type { Event } from '@ferry/schemas/event'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { silent, withFleet } from '../fleet-in-process.ts'
import type { FleetInProcess } from '../fleet-in-process.ts'
import { until } from '../until.ts'

/** A host returns with copies that a fence made stale, and its hypervisor does not end one of them. */
const test = suite('a stale copy that stays')

const rules = { doubtMs: 300, settleMs: 500 }
const both = ['db1', 'web1'] as const

const placesOf = ({ hosts }: FleetInProcess, vm: string) =>
  [...hosts].flatMap(([host, { world }]) => {
    const guest = world.guests.get(vm)
    return guest === undefined ? [] : [`${host} ${guest.state}`]
  })

async function clearedBy({ log }: FleetInProcess): Promise<string[]> {
  const events: Event[] = []
  for await (const { message } of log.read({ after: 0 }))
    if (message.is === 'event') events.push(message.event)
  return events.flatMap((event) => (event.type === 'TargetCleared' ? [event.vm] : []))
}

/** Whatever starts on rack2 is held back before it is said, until that agent dies; and web1 is not ended there at first. */
function badHypervisor() {
  const started = new Set<string>()
  let isHeld = true
  let isStuck = true
  let die = () => {}
  const death = new Promise<void>((resolve) => {
    die = resolve
  })
  const drivers = (driver: Driver, host: string): Driver =>
    host === 'rack1'
      ? driver
      : {
          ...driver,
          activate: async (vm) => {
            const running = await driver.activate(vm)
            started.add(vm)
            if (!isHeld) return running
            await death
            throw new Error('the agent dies here')
          },
          release: async (vm) => {
            if (vm === 'web1' && isStuck) throw new Error('it is stuck')
            return driver.release(vm)
          },
        }
  return {
    drivers,
    haveStarted: () => until('both to run', () => both.every((vm) => started.has(vm))),
    die: () => {
      isHeld = false
      die()
    },
    heal: () => {
      isStuck = false
    },
  }
}

/** Both guests run on rack1, behind a fence; and rack2 is back with a copy of each. */
async function returnWithBoth(
  fleet: FleetInProcess,
  { haveStarted, die }: ReturnType<typeof badHypervisor>,
): Promise<void> {
  for (const vm of both) {
    await fleet.start(vm, 'rack1')
    await fleet.migrate({ request: `m-${vm}`, vm, target: 'rack2' })
  }
  await haveStarted()
  const stopped = fleet.hosts.get('rack2')?.stopAgent()
  die()
  await stopped
  for (const vm of both) {
    await fleet.when(`m-${vm}`, ({ phase }) => phase === 'inDoubt', 'to be in doubt')
    const fence = { migration: `m-${vm}`, fenced: 'rack2', insist: true }
    assert.ok((await fleet.resolve(fence)).accepted)
    assert.is((await fleet.ended(`m-${vm}`)).phase, 'abandoned')
    assert.equal(placesOf(fleet, vm), ['rack1 running', 'rack2 running'])
  }
  fleet.hosts.get('rack2')?.startAgent()
}

test('holds up neither its agent nor another guest, and is ended as soon as that can be', async () => {
  const bad = badHypervisor()
  const complaints: string[] = []
  const say = { ...silent, error: (about: object) => void complaints.push(JSON.stringify(about)) }
  await withFleet(['rack1', 'rack2'], { drivers: bad.drivers, rules, say }, async (fleet) => {
    await returnWithBoth(fleet, bad)
    await until('the other one to be gone', () => placesOf(fleet, 'db1').join() === 'rack1 running')
    await until('that to be said', async () => (await clearedBy(fleet)).includes('db1'))
    await fleet.start('mail1', 'rack2')
    assert.equal(placesOf(fleet, 'web1'), ['rack1 running', 'rack2 running'])
    assert.not.ok((await clearedBy(fleet)).includes('web1'))
    assert.ok(complaints.some((each) => each.includes('web1')))

    bad.heal()
    await until('it to be gone', () => placesOf(fleet, 'web1').join() === 'rack1 running')
    await until('that to be said', async () => (await clearedBy(fleet)).includes('web1'))
    await until('the guest to be welcome there again', async () => {
      const asked = await fleet.migrate({ request: 'again', vm: 'web1', target: 'rack2' })
      return asked.accepted
    })
    assert.is((await fleet.ended('again')).phase, 'completed')
  })
})

test('is not moved on, though nobody else has a copy any more (I1)', async () => {
  const bad = badHypervisor()
  await withFleet(['rack1', 'rack2', 'rack3'], { drivers: bad.drivers, rules }, async (fleet) => {
    await returnWithBoth(fleet, bad)
    await until('the stale copy to be seen', () => {
      const seen = fleet.coordinator().fleet().guests.get('web1')?.seenOn ?? {}
      return seen.rack2?.state === 'running'
    })
    await fleet.hosts.get('rack1')?.replaceMachine({ isBare: true })
    await until('the stale copy to be all that is seen', () => {
      const seen = fleet.coordinator().fleet().guests.get('web1')?.seenOn ?? {}
      return Object.keys(seen).join() === 'rack2'
    })
    await fleet.migrate({ request: 'on', vm: 'web1', target: 'rack3' })
    await fleet.when('on', ({ phase }) => phase === 'beginning', 'to begin')
    await fleet.cancel('on')
    bad.heal()
    await fleet.ended('on')
    await until('it to be gone', () => placesOf(fleet, 'web1').length === 0)
  })
})

test.run()

import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { other, patient, withXenFleet } from './xen-fleet.ts'
import type { Rack, XenFleet } from './xen-fleet.ts'
import type { XenGuest } from './xen-guest.ts'
import type { XenTool } from './xen-hosts.ts'

/**
 * Whole hosts: Xen and its dom0 each, and Ferry's agents in them as real processes.
 *
 * @param guests one after the other; Linux writes over what another one boots from.
 */
export function thereAndBack(name: string, guests: readonly XenGuest[], tool: XenTool = 'xl') {
  const test = suite(name)
  const story = async (fleet: XenFleet) => {
    for (const [nth, guest] of guests.entries()) {
      const vm = `web${nth + 1}`
      const began = performance.now()
      await moved(fleet, vm, guest)
      console.log(`${guest}: there and back in ${Math.round((performance.now() - began) / 1000)} s`)
    }
  }
  test('moves there and back, and every number is counted once', () => withXenFleet(story, tool))
  test.run()
}

async function moved(fleet: XenFleet, vm: string, guest: XenGuest): Promise<void> {
  const { hosts, start, move, ended, onlyOn, countedOnce } = fleet
  await start(vm, guest)
  let at: Rack = 'rack1'
  for (const way of ['there', 'back']) {
    at = other(at)
    await move(`${vm}-${way}`, vm, at, patient)
    assert.is((await ended(`${vm}-${way}`)).phase, 'completed')
    await onlyOn(at, vm)
  }
  await countedOnce(vm, 2)
  await hosts.run(at, 'xl', 'destroy', vm)
}

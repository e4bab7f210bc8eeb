import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { other, patient, withXenFleet } from './xen-fleet.ts'
import type { Rack } from './xen-fleet.ts'
import type { XenGuest } from './xen-guest.ts'
import type { XenTool } from './xen-hosts.ts'

/** Whole hosts: Xen and its dom0 each, and Ferry's agents in them as real processes. */
export function thereAndBack(name: string, guest: XenGuest, tool: XenTool = 'xl'): void {
  const test = suite(name)
  test('moves there and back, and every number is counted once', () =>
    withXenFleet(async ({ start, move, ended, onlyOn, countedOnce }) => {
      await start('web1', guest)
      let at: Rack = 'rack1'
      for (const request of ['there', 'back']) {
        at = other(at)
        await move(request, 'web1', at, patient)
        assert.is((await ended(request)).phase, 'completed')
        await onlyOn(at, 'web1')
      }
      await countedOnce('web1', 2)
    }, tool))
  test.run()
}

import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { other, patient, withXenFleet } from '../lab/xen-fleet.ts'
import type { Rack } from '../lab/xen-fleet.ts'

/** Whole hosts: Xen and its dom0 each, and Ferry's agents in them as real processes. */
const test = suite('a guest of Xen that runs while it is copied')

test('moves there and back, and every number is counted once', () =>
  withXenFleet(async ({ start, move, ended, onlyOn, countedOnce }) => {
    await start('web1', 'pvh')
    let at: Rack = 'rack1'
    for (const request of ['there', 'back']) {
      at = other(at)
      await move(request, 'web1', at, patient)
      assert.is((await ended(request)).phase, 'completed')
      await onlyOn(at, 'web1')
    }
    await countedOnce('web1', 2)
  }))

test.run()

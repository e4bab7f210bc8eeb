import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { withGuest } from '../lab/libvirt-stage.ts'
import { linuxGuest } from '../lab/linux-guest.ts'

/** What operators have: a kernel with its clocks, timers and drivers, and not the few hundred bytes of the other tests. */
const test = suite('a Linux guest of libvirt')

test('moves there and back five times, and its count goes on by one each time', () =>
  withGuest(linuxGuest(), async ({ onlyOn, move, ended }) => {
    await onlyOn('rack1')
    for (let nth = 1; nth <= 10; nth++) {
      const target = nth % 2 === 1 ? 'rack2' : 'rack1'
      await move(`move-${nth}`, target)
      const { phase, attempt } = await ended(`move-${nth}`)
      assert.is(phase, 'completed')
      assert.is(attempt, 1)
      await onlyOn(target)
    }
  }))

test.run()

import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { killIn } from '../kill.ts'
import { PATIENCE_MS, bootSectorGuest, racks, withGuest } from '../lab/libvirt-stage.ts'
import type { Lab } from '../real/lab.ts'
import { until } from '../until.ts'

const test = suite('a guest of libvirt')

test('moves there and back five times, and every page of its memory is right each time', () =>
  withGuest(bootSectorGuest(), async ({ onlyOn, move, ended }) => {
    for (let nth = 1; nth <= 10; nth++) {
      const target = nth % 2 === 1 ? 'rack2' : 'rack1'
      await move(`move-${nth}`, target)
      const { phase, attempt } = await ended(`move-${nth}`)
      assert.is(phase, 'completed')
      assert.is(attempt, 1)
      await onlyOn(target)
    }
  }))

/** A copy that takes some seconds. */
const slowly = { bandwidthBytesPerSecond: 5_000_000, downtimeMs: 20_000 }

/** It writes more in a millisecond than may be sent in one. */
const neverDone = { bandwidthBytesPerSecond: 16 * 2 ** 20, downtimeMs: 1 }

const moments = {
  'while it copies': (lab: Lab) => {
    const { passedBytes } = lab.link('rack2')
    return until('the image to flow', () => passedBytes() > 1_000_000, PATIENCE_MS)
  },
  'while it switches over': (lab: Lab) =>
    lab.event('the pause', ({ type }) => type === 'SourcePaused').then(() => {}),
} as const

for (const [when, moment] of Object.entries(moments))
  for (const killed of racks)
    test(`arrives though the agent of its ${killed === 'rack1' ? 'source' : 'target'} is killed ${when}`, () =>
      withGuest(bootSectorGuest(), async ({ lab, onlyOn, move, ended }) => {
        const reached = moment(lab)
        await move('m1', 'rack2', slowly)
        await reached
        await lab.agent(killed).end('SIGKILL')
        lab.agent(killed).start()
        const { phase, attempt } = await ended('m1')
        assert.is(phase, 'completed')
        assert.is(attempt, 1)
        await onlyOn('rack2')
      }))

test('is slowed down where that is wished for, and arrives when its limits are changed', () =>
  withGuest(bootSectorGuest(), async ({ lab, onlyOn, move, ended }) => {
    const slowedDown = lab.event(
      'the guest to be slowed down',
      (event) => event.type === 'RoundPassed' && event.data.throttlePercent > 0,
      PATIENCE_MS,
    )
    await move('m1', 'rack2', { ...neverDone, autoConverge: true })
    await slowedDown
    const limited = await lab.ferry('limit', 'm1', '--bandwidth', 'none', '--downtime', '20000')
    assert.is(limited.code, 0, limited.stderr)
    const { phase, attempt } = await ended('m1')
    assert.is(phase, 'completed')
    assert.is(attempt, 1)
    await onlyOn('rack2')
  }))

for (const killed of racks)
  test(`tries again when what moves it at its ${killed === 'rack1' ? 'source' : 'target'} is killed`, () =>
    withGuest(bootSectorGuest(), async ({ lab, onlyOn, move, ended }) => {
      const reached = moments['while it copies'](lab)
      await move('m1', 'rack2', slowly)
      await reached
      await killIn(join(lab.folder, killed, 'movers', 'web1', 'mover.pid'))
      const { phase, attempt } = await ended('m1')
      assert.is(phase, 'completed')
      assert.is(attempt, 2)
      await onlyOn('rack2')
    }))

test.run()

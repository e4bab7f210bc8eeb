import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { causeSentence } from '@ferry/events/sentences'
import { patient, withXenFleet } from '../lab/xen-fleet.ts'

const test = suite('a guest of Xen that stands still while it is copied')

test('stays where it may not stand still for that long; else it moves there and back, and every number is counted once', () =>
  withXenFleet(async ({ start, move, ended, onlyOn, countedOnce }) => {
    await start('web1', 'linux pv')
    await move('too-still', 'web1', 'rack2', { downtimeMs: 300, attempts: 1 })
    const { phase, cause } = await ended('too-still')
    assert.is(phase, 'abandoned')
    assert.match(cause === undefined ? '' : causeSentence(cause), 'stands still for some')
    await onlyOn('rack1', 'web1')
    for (const target of ['rack2', 'rack1'] as const) {
      await move(`to-${target}`, 'web1', target, patient)
      assert.is((await ended(`to-${target}`)).phase, 'completed')
      await onlyOn(target, 'web1')
    }
    await countedOnce('web1', 2)
  }))

test.run()

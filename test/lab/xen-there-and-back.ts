import * as assert from 'uvu/assert'
import { causeSentence } from '@ferry/events/sentences'
import { other, patient } from './xen-fleet.ts'
import type { Rack, XenStory } from './xen-fleet.ts'
import type { XenGuest } from './xen-guest.ts'

/** Whole hosts: Xen and its dom0 each, and Ferry's agents in them as real processes. */
export const thereAndBack = (what: string, guest: XenGuest): XenStory => ({
  title: `${what} moves there and back, and every number is counted once`,
  tell: async ({ start, move, ended, onlyOn, countedOnce }, vm) => {
    await start(vm, guest)
    let at: Rack = 'rack1'
    for (const way of ['there', 'back']) {
      at = other(at)
      await move(`${vm}-${way}`, vm, at, patient)
      assert.is((await ended(`${vm}-${way}`)).phase, 'completed')
      await onlyOn(at, vm)
    }
    await countedOnce(vm, 2)
  },
})

/** Xen copies a PV guest only while it stands still. */
export const stillThereAndBack: XenStory = {
  title:
    'a PV guest stays where it may not stand still for that long; else it moves there and back, and every number is counted once',
  tell: async ({ start, move, ended, onlyOn, countedOnce }, vm) => {
    await start(vm, 'linux pv')
    await move(`${vm}-too-still`, vm, 'rack2', { downtimeMs: 300, attempts: 1 })
    const { phase, cause } = await ended(`${vm}-too-still`)
    assert.is(phase, 'abandoned')
    assert.match(cause === undefined ? '' : causeSentence(cause), 'stands still for some')
    await onlyOn('rack1', vm)
    for (const target of ['rack2', 'rack1'] as const) {
      await move(`${vm}-to-${target}`, vm, target, patient)
      assert.is((await ended(`${vm}-to-${target}`)).phase, 'completed')
      await onlyOn(target, vm)
    }
    await countedOnce(vm, 2)
  },
}

import { upgrade } from '@ferry/schemas/upgrade'
import type { Upgrades } from '@ferry/schemas/upgrade'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

/**
 * How a message grows old, as an example. Say that version 1 of SourcePaused had told seconds, that version 2 told
 * milliseconds, and that version 3 said who paused it. Each step knows only its neighbours.
 */
const steps: Upgrades = {
  SourcePaused: {
    1: ({ pausedAtSeconds, ...rest }) => ({ ...rest, pausedAt: Number(pausedAtSeconds) * 1000 }),
    2: (data) => ({ ...data, by: 'hypervisor' }),
  },
}

test('an old message takes one step for each version', () => {
  assert.equal(upgrade(steps, 'SourcePaused', 1, 3, { admission: 7, pausedAtSeconds: 2 }), {
    admission: 7,
    pausedAt: 2000,
    by: 'hypervisor',
  })
})

test('a present one takes none', () => {
  assert.equal(upgrade(steps, 'SourcePaused', 3, 3, { pausedAt: 1 }), { pausedAt: 1 })
})

test('where a step is missing, nothing is guessed', () => {
  assert.is(upgrade(steps, 'SourceResumed', 1, 2, {}), undefined)
})

test.run()

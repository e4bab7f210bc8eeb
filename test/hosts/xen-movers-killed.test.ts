import { xenStories } from '../lab/xen-fleet.ts'
import { killings } from '../lab/xen-killed.ts'
import type { Killing, Way } from '../lab/xen-killed.ts'

const moverAlone = (of: Killing['of']): Way => ({
  killed: [{ who: ['mover'], of, at: 'RoundPassed' }],
  arrivesFrom: 2,
})
const both = (of: Killing['of'], at: Killing['at']): Way => ({
  killed: [{ who: ['agent', 'mover'], of, at }],
  arrivesFrom: 1,
})

xenStories('guests of Xen whose movers are killed', {
  xl: [
    killings('a guest', [
      moverAlone('source'),
      moverAlone('target'),
      both('source', 'SourcePaused'),
      both('target', 'SourcePaused'),
      both('target', 'Committed'),
    ]),
  ],
  libxl: [killings('a guest of libvirt', [moverAlone('target'), both('target', 'Committed')])],
})

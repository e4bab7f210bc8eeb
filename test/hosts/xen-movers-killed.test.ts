import { killings } from '../lab/xen-killed.ts'

killings('a guest of Xen arrives though what moves it is killed', [
  { who: ['mover'], of: 'source', at: 'RoundPassed', from: 2 },
  { who: ['mover'], of: 'target', at: 'RoundPassed', from: 2 },
  { who: ['agent', 'mover'], of: 'source', at: 'SourcePaused', from: 1 },
  { who: ['agent', 'mover'], of: 'target', at: 'SourcePaused', from: 1 },
  { who: ['agent', 'mover'], of: 'target', at: 'Committed', from: 1 },
])

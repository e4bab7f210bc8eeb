import { killings } from '../lab/xen-killed.ts'

killings('a guest of Xen arrives though what moves it is killed', [
  { who: 'mover', of: 'source', at: 'RoundPassed', attempts: [2] },
  { who: 'mover', of: 'target', at: 'RoundPassed', attempts: [2] },
  { who: 'agent and mover', of: 'source', at: 'SourcePaused', attempts: [1, 2] },
  { who: 'agent and mover', of: 'target', at: 'SourcePaused', attempts: [1, 2] },
  { who: 'agent and mover', of: 'target', at: 'Committed', attempts: [1] },
])

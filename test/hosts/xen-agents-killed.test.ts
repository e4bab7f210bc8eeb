import { killings } from '../lab/xen-killed.ts'

killings('a guest of Xen arrives though an agent is killed', [
  { who: ['agent'], of: 'source', at: 'Admitted', from: 1 },
  { who: ['agent'], of: 'target', at: 'MigrationBegun', from: 1 },
  { who: ['agent'], of: 'source', at: 'RoundPassed', from: 1 },
  { who: ['agent'], of: 'target', at: 'RoundPassed', from: 1 },
  { who: ['agent'], of: 'source', at: 'SourcePaused', from: 1 },
  { who: ['agent'], of: 'target', at: 'SourcePaused', from: 1 },
  { who: ['agent'], of: 'source', at: 'TargetRunning', from: 1 },
])

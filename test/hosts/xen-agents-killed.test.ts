import { killings } from '../lab/xen-killed.ts'

killings('a guest of Xen arrives though an agent is killed', [
  { who: 'agent', of: 'source', at: 'Admitted', attempts: [1] },
  { who: 'agent', of: 'target', at: 'MigrationBegun', attempts: [1] },
  { who: 'agent', of: 'source', at: 'RoundPassed', attempts: [1] },
  { who: 'agent', of: 'target', at: 'RoundPassed', attempts: [1] },
  { who: 'agent', of: 'source', at: 'SourcePaused', attempts: [1] },
  { who: 'agent', of: 'target', at: 'SourcePaused', attempts: [1] },
  { who: 'agent', of: 'source', at: 'TargetRunning', attempts: [1] },
])

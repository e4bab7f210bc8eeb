import { killings } from '../lab/xen-killed.ts'

killings(
  'a guest of Xen that belongs to libvirt arrives though somebody is killed',
  [
    { who: ['agent'], of: 'source', at: 'Admitted', from: 1 },
    { who: ['agent'], of: 'target', at: 'MigrationBegun', from: 1 },
    { who: ['mover'], of: 'target', at: 'RoundPassed', from: 2 },
    { who: ['agent'], of: 'source', at: 'SourcePaused', from: 1 },
    { who: ['agent', 'mover'], of: 'target', at: 'Committed', from: 1 },
    { who: ['agent'], of: 'source', at: 'TargetRunning', from: 1 },
  ],
  'libxl',
)

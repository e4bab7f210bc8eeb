import type { MakeChecker } from '../checker.ts'
import { i1 } from './i1-one-host-runs-it.ts'
import { i2 } from './i2-never-lost.ts'
import { i3 } from './i3-the-first-verdict.ts'
import { i4 } from './i4-paused-until-told.ts'
import { i5 } from './i5-every-migration-ends.ts'
import { i6 } from './i6-one-migration-and-no-limit-exceeded.ts'
import { i7 } from './i7-a-command-takes-effect-once.ts'
import { i8 } from './i8-the-same-fold.ts'
import { i9 } from './i9-strangers-are-void.ts'
import { i10 } from './i10-memory-arrives-identical.ts'
import { i11 } from './i11-no-secret-in-clear.ts'
import { i12 } from './i12-followers-get-everything-once.ts'

export const invariants: readonly MakeChecker[] = [
  i1,
  i2,
  i3,
  i4,
  i5,
  i6,
  i7,
  i8,
  i9,
  i10,
  i11,
  i12,
]

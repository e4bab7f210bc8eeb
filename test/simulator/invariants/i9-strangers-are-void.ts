import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'

/** I9: what is malformed, forged or on somebody else's subject is void. */
export const i9: MakeChecker = ({ junk }) => ({
  onEntry: ({ position, subject }, ruling) => {
    if (junk.has(position) && !('why' in ruling))
      throw new Violation('I9', `what a stranger put on ${subject} at ${position} counts`)
  },
})

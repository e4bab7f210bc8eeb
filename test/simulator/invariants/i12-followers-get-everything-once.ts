import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'

/** I12: whoever follows gets every event once, in order: in the calm all coordinators stand at the end of the log. */
export const i12: MakeChecker = ({ server, coordinators }) => ({
  atEnd: () => {
    for (const { name, fleet } of coordinators())
      if (fleet().position !== server.entries.length)
        throw new Violation(
          'I12',
          `${name} stands at ${fleet().position} of ${server.entries.length}`,
        )
  },
})

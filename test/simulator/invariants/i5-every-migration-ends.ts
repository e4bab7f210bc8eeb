import { underWay } from '@ferry/events/fleet'
import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'

/** I5: every migration ends, or stands in doubt with a named question. */
export const i5: MakeChecker = ({ fleet }) => ({
  atEnd: () => {
    for (const { id, phase, attempt } of underWay(fleet))
      if (phase !== 'inDoubt' || attempt.doubt === undefined)
        throw new Violation('I5', `${id} has not ended: it is ${phase}`)
  },
})

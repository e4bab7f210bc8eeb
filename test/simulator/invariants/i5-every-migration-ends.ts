import { isStopped } from '@ferry/events/alarms'
import { underWay } from '@ferry/events/fleet'
import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'

/** I5: every migration ends, or stands in doubt with a named question; and a log that lost its tail is recovered. */
export const i5: MakeChecker = ({ fleet }) => ({
  atEnd: () => {
    if (isStopped(fleet.alarms)) throw new Violation('I5', 'nobody answers the alarms')
    for (const { id, phase, attempt } of underWay(fleet))
      if (phase !== 'inDoubt' || attempt.doubt === undefined)
        throw new Violation('I5', `${id} has not ended: it is ${phase}`)
  },
})

import { isStopped } from '@ferry/events/alarms'
import { underWay } from '@ferry/events/fleet'
import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'

/**
 * I5: every migration ends, or stands in doubt with a named question, a log that lost its tail is recovered, and nobody is
 * at something for ever.
 */
export const i5: MakeChecker = ({ fleet, restless }) => ({
  atEnd: () => {
    if (isStopped(fleet.alarms)) throw new Violation('I5', 'nobody answers the alarms')
    for (const { id, phase, attempt } of underWay(fleet))
      if (phase !== 'inDoubt' || attempt.doubt === undefined)
        throw new Violation('I5', `${id} has not ended: it is ${phase}`)
    const [node] = restless()
    if (node !== undefined) throw new Violation('I5', `${node} is still at something`)
  },
})

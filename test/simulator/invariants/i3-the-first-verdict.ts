import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'
import { everFirstVerdict, firstVerdict } from './what-was-said.ts'

/**
 * I3: the verdict is the first valid message on its subject; nobody acts on anything else. What a log has lost since was
 * the verdict for whoever read it there; that nobody acts on another one as well is I1.
 */
export const i3: MakeChecker = ({ server, fleet }) => ({
  onEffect: ({ call, host, vm, guest }) => {
    if (call !== 'activate' || guest?.receives === undefined || guest.state === 'running') return
    const attempt = { target: host, ...guest.receives }
    if (!everFirstVerdict(server, attempt).includes('Committed'))
      throw new Violation(
        'I3',
        `${host} starts ${vm} on ${firstVerdict(server, attempt) ?? 'no verdict'}`,
      )
  },
  onEntry: ({ message, position }, ruling) => {
    if (message.is !== 'event') return
    const { event } = message
    if (event.type !== 'Committed' && event.type !== 'Cancelled') return
    if ('why' in ruling) return
    const { migration, attempt, data } = event
    const verdict = firstVerdict(server, { target: data.target, migration, attempt })
    if (verdict !== event.type)
      throw new Violation(
        'I3',
        `position ${position} counts as ${event.type}; ${verdict} came first`,
      )
    const present = fleet.guests.get(event.vm)?.migration
    if (present?.id === migration && present.attempt.verdict?.position !== position)
      throw new Violation('I3', `the fold took another verdict than position ${position}`)
  },
})

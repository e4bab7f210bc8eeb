import { defaultRules } from '@ferry/coordinator/decide/world'
import { underWay } from '@ferry/events/fleet'
import { targetOf } from '@ferry/events/migration'
import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'

/** I6: one migration per VM, and no limit is exceeded by one, at any position. */
export const i6: MakeChecker = ({ fleet }) => ({
  onEntry: ({ message }, ruling) => {
    if (message.is !== 'event' || message.event.type !== 'Admitted' || 'why' in ruling) return
    const { perSource, perTarget, fleet: whole } = defaultRules.limits
    const taken = underWay(fleet).filter((migration) => targetOf(migration) !== undefined)
    const count = (limit: number, what: string, holders: readonly string[]) => {
      if (holders.length > limit)
        throw new Violation('I6', `${holders.length} ${what}: ${holders.join(', ')}`)
    }
    const { source, target } = message.event.data
    const ids = (those: typeof taken) => those.map(({ id }) => id)
    count(whole, 'in the fleet', ids(taken))
    count(perSource, `out of ${source}`, ids(taken.filter((each) => each.source === source)))
    count(perTarget, `into ${target}`, ids(taken.filter((each) => targetOf(each) === target)))
    if (new Set(taken.map(({ vm }) => vm)).size < taken.length)
      throw new Violation('I6', 'a guest is moved twice at the same time')
  },
})

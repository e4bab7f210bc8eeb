import { defaultRules } from '@ferry/coordinator/decide/world'
import type { Entry } from '@ferry/events/entry'
import { underWay } from '@ferry/events/fleet'
import type { Ruling } from '@ferry/events/fleet'
import { targetOf } from '@ferry/events/migration'
import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'

/**
 * I6: one migration per VM, and no limit is exceeded by one, at any position. For that, of two that were decided after
 * the same one only the first counts, as their writers were told.
 */
export const i6: MakeChecker = ({ fleet }) => {
  const heads = new Map<string, number>()
  const inOrder = ({ position, subject, message }: Entry, ruling: Ruling) => {
    if (message.is !== 'event' || !isOrdered(subject)) return
    const { data, type } = message.event
    if (!('after' in data)) return
    const head = heads.get(subject) ?? 0
    if (data.after === head) heads.set(subject, position)
    else if (!('why' in ruling))
      throw new Violation('I6', `${type} at ${position} counts after ${data.after}, not ${head}`)
  }
  const withinLimits = ({ message }: Entry, ruling: Ruling) => {
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
  }
  return {
    onLoss: (left) => {
      heads.clear()
      for (const { position, subject, message } of left) {
        const after =
          message.is === 'event' && 'after' in message.event.data ? message.event.data.after : -1
        if (isOrdered(subject) && after === (heads.get(subject) ?? 0)) heads.set(subject, position)
      }
    },
    onEntry: (entry, ruling) => {
      inOrder(entry, ruling)
      withinLimits(entry, ruling)
    },
  }
}

const isOrdered = (subject: string) => /^ferry\.(decision\.|admission$)/.test(subject)

import type { EventOf } from '@ferry/schemas/event'
import { messages } from '@ferry/schemas/messages'
import { migrationOf } from '@ferry/events/fleet'
import type { SimulatedGuest } from '@ferry/host-agent/drivers/simulated/guest'
import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'
import { wasFenced } from './what-was-said.ts'

type MadeFor = NonNullable<SimulatedGuest['receives']> & { readonly copy: string }

/** I7: a command takes effect once: no attempt starts a guest twice, and no answer counts for another attempt. */
export const i7: MakeChecker = ({ server, fleet }) => {
  /** Copies that were told to start, and the attempts whose copy has run. */
  const told = new Map<SimulatedGuest, MadeFor>()
  const ran = new Map<string, MadeFor>()
  const isAdmitted = ({ migration, attempt }: MadeFor) => {
    const { number = 0, slot } = migrationOf(fleet, migration)?.attempt ?? {}
    return number > attempt || (number === attempt && slot !== undefined)
  }
  const wasFencedIn = (event: EventOf<'TargetCleared'>) =>
    'host' in event.writer && wasFenced(server, event.writer.host, event)
  return {
    // What the log has forgotten may be asked for and admitted again.
    onLoss: () => {
      for (const [copy, its] of ran) if (!isAdmitted(its)) ran.delete(copy)
    },
    onEffect: ({ call, host, vm, guest }) => {
      if (call !== 'activate' || guest?.receives === undefined || guest.state === 'running') return
      const { migration, attempt } = guest.receives
      const copy = `${migration}.${attempt} on ${host}`
      if (ran.has(copy)) throw new Violation('I7', `${vm} is started twice for ${copy}`)
      told.set(guest, { copy, migration, attempt })
    },
    afterStep: () => {
      for (const [guest, its] of told)
        if (guest.state === 'running') {
          ran.set(its.copy, its)
          told.delete(guest)
        }
    },
    onEntry: ({ message, position }, ruling) => {
      if (message.is !== 'event' || 'why' in ruling) return
      const { event } = message
      if (!('attempt' in event) || !answers.has(messages[event.type].kind)) return
      const present = fleet.guests.get(event.vm)?.migration
      const isSlots =
        !('admission' in event.data) || event.data.admission === present?.attempt.slot?.admission
      const isPresent = present?.id === event.migration && present.attempt.number === event.attempt
      // A host that was fenced clears what it has left of that attempt whenever it returns.
      if ((isSlots && isPresent) || (event.type === 'TargetCleared' && wasFencedIn(event))) return
      throw new Violation('I7', `position ${position} counts for an attempt that is not its own`)
    },
  }
}

const answers: ReadonlySet<string> = new Set(['command', 'fact', 'verdict'])

import type { EventOf } from '@ferry/schemas/event'
import { messages } from '@ferry/schemas/messages'
import { migrationOf } from '@ferry/events/fleet'
import type { SimulatedGuest } from '@ferry/host-agent/drivers/simulated/guest'
import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'
import { wasFenced } from './what-was-said.ts'

/** I7: a command takes effect once: no attempt starts a guest twice, and no answer counts for another attempt. */
export const i7: MakeChecker = ({ server, fleet }) => {
  /** Copies that were told to start, and the attempts whose copy has run. */
  const told = new Map<SimulatedGuest, string>()
  const ran = new Set<string>()
  const wasFencedIn = (event: EventOf<'TargetCleared'>) =>
    'host' in event.writer && wasFenced(server, event.writer.host, event)
  return {
    // A request that the log has forgotten may be made again, and its attempts with it.
    onLoss: () => {
      for (const copy of ran)
        if (migrationOf(fleet, copy.slice(0, copy.indexOf('.'))) === undefined) ran.delete(copy)
    },
    onEffect: ({ call, host, vm, guest }) => {
      if (call !== 'activate' || guest?.receives === undefined || guest.state === 'running') return
      const { migration, attempt } = guest.receives
      const copy = `${migration}.${attempt} on ${host}`
      if (ran.has(copy)) throw new Violation('I7', `${vm} is started twice for ${copy}`)
      told.set(guest, copy)
    },
    afterStep: () => {
      for (const [guest, copy] of told)
        if (guest.state === 'running') {
          ran.add(copy)
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

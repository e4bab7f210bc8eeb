import type { SimulatedGuest } from '@ferry/host-agent/drivers/simulated/guest'
import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'

/** I7: a command takes effect once: no attempt starts a guest twice, and no answer counts for another attempt's slot. */
export const i7: MakeChecker = ({ fleet }) => {
  /** Copies that were told to start, and the attempts whose copy has run. */
  const told = new Map<SimulatedGuest, string>()
  const ran = new Set<string>()
  return {
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
      if (!('admission' in event.data) || !('attempt' in event)) return
      const slot = fleet.guests.get(event.vm)?.migration?.attempt.slot?.admission
      if (event.data.admission !== slot)
        throw new Violation('I7', `position ${position} counts for a slot that is not its own`)
    },
  }
}

import type { SimulatedGuest } from '@ferry/host-agent/drivers/simulated/guest'
import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'
import {
  everFirstVerdict,
  lastPerformOn,
  offered,
  performed,
  recoveries,
  wasFenced,
} from './what-was-said.ts'

/**
 * I4: once its image is complete, or is offered without that, a source resumes only on Cancelled or a recorded fence, or because a recovery says that
 * the guest belongs there; a target that has not got all of it never starts.
 */
export const i4: MakeChecker = ({ machines, server, completed }) => {
  const sent = new WeakSet<SimulatedGuest>()
  const mayResume = (host: string, vm: string): boolean => {
    const perform = lastPerformOn(server, host, vm)
    if (perform === undefined) return false
    const { migration, attempt, data, askedAt } = perform
    const { target, transfer } = data
    return (
      !(
        completed.has(transfer) ||
        offered(server, host, perform) ||
        performed(server, host, perform)
      ) ||
      everFirstVerdict(server, { target, migration, attempt }).includes('Cancelled') ||
      wasFenced(server, target, perform) ||
      recoveries(server, vm, askedAt).some((guest) => guest.host === host)
    )
  }
  return {
    onEffect: ({ call, host, vm, guest }) => {
      if (call === 'resume' && guest?.state === 'sent' && !mayResume(host, vm))
        throw new Violation('I4', `${host} resumes ${vm} without Cancelled and without a fence`)
      if (call === 'activate' && guest?.state === 'receiving')
        throw new Violation('I4', `${host} starts ${vm} before its image is complete`)
    },
    afterStep: () => {
      for (const { host, world } of machines.values())
        for (const guest of world.guests.values()) {
          const { vm, state } = guest
          if (state === 'sent') sent.add(guest)
          else if (sent.delete(guest) && state === 'running' && !mayResume(host, vm))
            throw new Violation('I4', `${vm} runs on ${host} again, though all of it was sent`)
        }
    },
  }
}

import { PAGE_BYTES } from '@ferry/host-agent/drivers/simulated/guest'
import { firstBytesOf, sweepFault } from '../../guest/memory.ts'
import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'

/** I10: memory arrives identical: a guest that was just started has every page that it had when it was paused. */
export const i10: MakeChecker = ({ machines }) => {
  const check = (host: string, vm: string, memory: Buffer) => {
    const fault = sweepFault(firstBytesOf(memory, PAGE_BYTES))
    if (fault !== undefined) throw new Violation('I10', `${vm} on ${host}: ${fault}`)
  }
  return {
    onEffect: ({ call, host, vm, guest }) => {
      if (call === 'activate' && guest !== undefined && guest.state !== 'running')
        check(host, vm, guest.memory)
    },
    atEnd: () => {
      for (const { host, world } of machines.values())
        for (const guest of world.guests.values())
          if (guest.state === 'running') check(host, guest.vm, guest.memory)
    },
  }
}

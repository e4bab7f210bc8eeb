import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'

/** I1: at most one host runs a guest. */
export const i1: MakeChecker = ({ machines }) => ({
  afterStep: () => {
    const runsOn = new Map<string, string>()
    for (const { host, world } of machines.values())
      for (const { vm, state } of world.guests.values()) {
        if (state !== 'running') continue
        const other = runsOn.get(vm)
        if (other !== undefined) throw new Violation('I1', `${vm} runs on ${other} and on ${host}`)
        runsOn.set(vm, host)
      }
  },
})

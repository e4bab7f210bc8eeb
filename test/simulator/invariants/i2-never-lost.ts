import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'
import { lastPerformOn, runs } from './last-perform.ts'

/** I2: a guest is never lost, and its source's copy is released only behind TargetRunning, or as a stale copy behind a fence. */
export const i2: MakeChecker = ({ machines, hurt, server, fleet }) => {
  const known = new Set<string>()
  return {
    afterStep: () => {
      const whole = new Set<string>()
      for (const { world } of machines.values())
        for (const { vm, state } of world.guests.values()) if (state !== 'receiving') whole.add(vm)
      for (const vm of whole) known.add(vm)
      for (const vm of known)
        if (!whole.has(vm)) {
          if (!hurt.has(vm)) throw new Violation('I2', `${vm} is nowhere`)
          known.delete(vm)
        }
    },
    onEffect: ({ call, host, vm, guest }) => {
      if (call !== 'release' || guest === undefined) return
      const perform = lastPerformOn(server, host, vm)
      const isFenced = fleet.guests.get(vm)?.stale[host] !== undefined
      if (!isFenced && (perform === undefined || !runs(server, perform)))
        throw new Violation('I2', `${host} releases ${vm} without TargetRunning`)
    },
  }
}

import { migrationOf } from '@ferry/events/fleet'
import { isEnded } from '@ferry/events/phases'
import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'
import { lastPerformOn, recoveries, runs, wasStale } from './what-was-said.ts'

/**
 * I2: a guest is never lost, and its source's copy is released only behind TargetRunning, or as a stale copy behind a
 * fence. One that a fault of this world has ended is not moved on, and is said to be lost.
 */
export const i2: MakeChecker = ({ machines, hurt, server, fleet }) => {
  const known = new Set<string>()
  /** By a recovery: the guest runs elsewhere, or its operator has seen to it that it does not run here. */
  const belongsElsewhere = (host: string, vm: string, askedAt = 0) =>
    recoveries(server, vm, askedAt).some(
      ({ host: home, isRunning, without }) =>
        home !== host && (isRunning || without.includes(host)),
    )
  /** The positions of SourceLost, by migration. */
  const lost = new Map<string, number>()
  return {
    onLoss: ({ length }) => {
      for (const [migration, position] of lost) if (position > length) lost.delete(migration)
    },
    onEntry: ({ message, position }, ruling) => {
      if (message.is !== 'event' || 'why' in ruling) return
      const { event } = message
      if (event.type === 'SourceLost') lost.set(event.migration, position)
      if (event.type !== 'Retried' && event.type !== 'Abandoned') return
      const isSaid = migrationOf(fleet, event.migration)?.end?.guestLost === true
      if (lost.has(event.migration) && !isSaid)
        throw new Violation('I2', `${event.vm} was lost, and ${event.type} does not say so`)
    },
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
    atEnd: () => {
      for (const vm of known) {
        const { migration } = fleet.guests.get(vm) ?? {}
        if (hurt.has(vm) || migration === undefined || !isEnded(migration.phase)) continue
        const isRunning = [...machines.values()].some(
          ({ world }) => world.guests.get(vm)?.state === 'running',
        )
        if (!isRunning)
          throw new Violation('I2', `${vm} runs nowhere, though its migration has ended`)
      }
    },
    onEffect: ({ call, host, vm, guest }) => {
      if (call !== 'release' || guest === undefined) return
      const perform = lastPerformOn(server, host, vm)
      const isStale = fleet.guests.get(vm)?.stale[host] !== undefined
      if (isStale || wasStale(server, host, vm)) return
      if (belongsElsewhere(host, vm, perform?.askedAt)) return
      if (perform === undefined || !runs(server, perform))
        throw new Violation('I2', `${host} releases ${vm} without TargetRunning`)
    },
  }
}

import { isStopped } from '@ferry/events/alarms'
import { verbsOf } from '@ferry/coordinator/api'
import type { Coordinator } from '@ferry/coordinator/coordinate'
import type { Answer } from '@ferry/schemas/request'
import type { Chance } from './chance.ts'
import type { Machine } from './machine.ts'
import type { Time } from './time.ts'

const LOOK_EVERY_MS = 1000
/** Waited for a host that has not said what runs there; then its machine may be switched off. */
const HOST_PATIENCE_MS = 15_000
/** An answer may get lost with the coordinator that would have given it. */
const ANSWER_MS = 10_000

/**
 * Answers the alarms about a log that lost its tail, as a refusal asks for it. What is said is true: a machine that is
 * left out was switched off before, and of a guest whose copies leave it open one has looked at the machines.
 */
export function honestOperator(world: {
  readonly machines: ReadonlyMap<string, Machine>
  readonly coordinators: () => readonly Coordinator[]
  readonly time: Time
  readonly chance: Chance
  readonly switchOff: (machine: Machine) => void
  readonly broken: (error: unknown) => void
}): () => void {
  const { machines, coordinators, time, chance, switchOff, broken } = world
  let since: number | undefined
  let busyUntil = 0
  const without = new Set<string>()
  const unclear = new Set<string>()

  const placeOf = (vm: string): string | undefined => {
    const copies = [...machines.values()].flatMap(({ host, world: { guests } }) => {
      const state = guests.get(vm)?.state
      return state === undefined ? [] : [{ host, state }]
    })
    for (const wanted of ['running', 'paused', 'sent']) {
      const found = copies.find(({ state }) => state === wanted)
      if (found !== undefined) return found.host
    }
    return undefined
  }
  const heed = (answer: Answer) => {
    busyUntil = 0
    if (answer.accepted) return
    const { refusal } = answer
    if (refusal.type === 'GuestUnclear') unclear.add(refusal.vm)
    if (refusal.type === 'NoWholeCopy') unclear.delete(refusal.vm)
    // It was switched off, and is on again: what was said of it is not true any more.
    if (refusal.type === 'HostsAlive') for (const host of refusal.hosts) without.delete(host)
    if (refusal.type !== 'HostsSilent') return
    if (since === undefined || time.now() - since < HOST_PATIENCE_MS) return
    for (const host of refusal.hosts) {
      const machine = machines.get(host)
      if (machine === undefined || !chance.happens(0.2)) continue
      switchOff(machine)
      without.add(host)
    }
  }
  return function look() {
    time.after(LOOK_EVERY_MS, look)
    const asked = coordinators().filter(({ fleet }) => isStopped(fleet().alarms))
    if (asked.length === 0) {
      since = undefined
      without.clear()
      unclear.clear()
      return
    }
    since ??= time.now()
    if (time.now() < busyUntil) return
    busyUntil = time.now() + ANSWER_MS
    const guests = [...unclear].map((vm) => {
      const host = placeOf(vm)
      return { vm, ...(host === undefined ? {} : { host }) }
    })
    const request = { by: 'operator', without: [...without], guests }
    const asking = verbsOf(chance.pick(asked))['recover']?.answer(request) as Promise<Answer>
    asking.then(heed, (error: unknown) => {
      if (error instanceof TypeError) broken(error)
    })
  }
}

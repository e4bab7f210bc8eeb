import { CopyFailed, NeverStarted } from '@ferry/host-agent/driver'
import type { Driver, Resumed } from '@ferry/host-agent/driver'
import { simulatedDriver } from '@ferry/host-agent/drivers/simulated/driver'
import type { SimulatedHost } from '@ferry/host-agent/drivers/simulated/driver'
import { setState } from '@ferry/host-agent/drivers/simulated/guest'
import type { SimulatedGuest } from '@ferry/host-agent/drivers/simulated/guest'
import type { HostKey } from '@ferry/host-agent/keys'
import { arrivedBehindOffer, directly, forgetLoading } from '../direct.ts'
import type { Cable, GoesOn } from '../direct.ts'
import type { Chance } from './chance.ts'
import type { Faults } from './faults.ts'
import type { Life } from './life.ts'
import { never } from './life.ts'

/** A host in the simulated world: its guests outlive its agent, and not the machine. */
export type Machine = {
  readonly host: string
  readonly world: SimulatedHost
  readonly key: HostKey
  /** Guests whose hypervisor has been given a part of an image. */
  readonly fed: Set<string>
  /** Its hypervisors, which move images by themselves where that is asked for. */
  readonly hypervisors: Driver
  readonly cable: Cable
  readonly goesOn: GoesOn
}

/** What an agent does to a guest: told right before it takes effect. */
export type Effect = {
  readonly host: string
  readonly vm: string
  readonly call: 'start' | 'prepare' | 'activate' | 'release' | 'resume' | 'clear'
  readonly guest: SimulatedGuest | undefined
}

const LONGEST_HANG_MS = 40_000
/** A call that lets a guest run hangs so much oftener than any other: what is decided meanwhile must not run it elsewhere. */
const START_HANGS = 6

/** The simulated driver in one life of an agent, with everything that can go wrong between an agent and a hypervisor. */
export function driverOn(
  machine: Machine,
  edges: {
    readonly life: Life
    readonly chance: Chance
    readonly faults: () => Faults
    /** A guest was left in a state that nobody is told of. */
    readonly hurt: (vm: string) => void
    readonly effect: (effect: Effect) => void
  },
): Driver {
  const { host, world, fed, hypervisors, cable, goesOn } = machine
  const { life, chance, faults, hurt, effect } = edges
  const driver = directly(
    simulatedDriver(world, life.clock),
    hypervisors,
    cable,
    goesOn,
    life.clock,
  )

  const called = <T>(act: () => Promise<T>, hangs = 1): Promise<T> =>
    life.during(answered(act, hangs))
  const answered = async <T>(act: () => Promise<T>, hangs: number): Promise<T> => {
    if (life.isDead()) return never()
    const { driverFails, driverHangs, driverLate } = faults()
    if (chance.happens(driverLate)) await life.clock.sleep(chance.between(1, 2000))
    if (chance.happens(hangs * driverHangs))
      await life.clock.sleep(chance.between(2000, LONGEST_HANG_MS))
    if (chance.happens(driverFails)) throw new Error('no space left on device')
    const answer = await life.heard(act())
    // A hypervisor may do what it was told and then fail to say so.
    if (chance.happens(driverFails)) throw new Error('the monitor hung up')
    life.step()
    return life.heard(Promise.resolve(answer))
  }
  const does = <T>(call: Effect['call'], vm: string, act: () => Promise<T>) =>
    called(
      () => {
        effect({ host, vm, call, guest: world.guests.get(vm) })
        return act()
      },
      letsRun.has(call) ? START_HANGS : 1,
    )
  const lies = () => chance.happens(faults().driverLies)
  const stateOf = (vm: string) => world.guests.get(vm)?.state
  /** Copies whose start was refused: their end must be a true one (rule 6). */
  const neverStarted = new Set<SimulatedGuest>()
  const isStarted = (vm: string) => stateOf(vm) === undefined || stateOf(vm) === 'running'
  const refuses = () => chance.happens(faults().driverRefuses)
  const refusal = { type: 'HypervisorFailed', message: 'it does not want to' } as const

  return {
    ...driver,
    inspect: () => called(driver.inspect),
    start: (vm) =>
      refuses() ? called(async () => ({ refusal })) : does('start', vm, () => driver.start(vm)),
    begin: (vm, leave) =>
      refuses() ? called(async () => ({ refusal })) : called(() => driver.begin(vm, leave)),
    prepare: (landing) =>
      refuses()
        ? called(async () => refusal)
        : does('prepare', landing.vm, () => driver.prepare(landing)),
    perform: (vm, order) =>
      called(() => {
        if (refuses()) throw new CopyFailed(refusal)
        return driver.perform(vm, order)
      }),
    receive: (vm, order) =>
      called(() =>
        driver.receive(vm, {
          ...order,
          fill: (hypervisor) => {
            fed.add(vm)
            return order.fill(hypervisor)
          },
        }),
      ),
    activate: async (vm, rest) => {
      await life.during(arrivedBehindOffer(goesOn, vm, rest?.signal))
      return does('activate', vm, () => {
        const guest = world.guests.get(vm)
        if (refuses() && guest?.state !== 'running') {
          if (guest !== undefined) neverStarted.add(guest)
          throw new NeverStarted(refusal)
        }
        if (isStarted(vm) || !lies()) return driver.activate(vm)
        hurt(vm)
        return Promise.resolve({ runningAt: life.clock.now() })
      })
    },
    release: (vm) =>
      does('release', vm, async () => {
        if (isStarted(vm) || !lies()) await driver.release(vm)
      }),
    resume: (vm) =>
      does('resume', vm, (): Promise<Resumed | undefined> => {
        if (isStarted(vm) || !lies()) return driver.resume(vm)
        hurt(vm)
        return Promise.resolve({ wasPaused: true, runningAt: life.clock.now() })
      }),
    clear: (vm) =>
      does('clear', vm, async () => {
        const guest = world.guests.get(vm)
        const mayLie = guest !== undefined && !neverStarted.has(guest)
        if (isStarted(vm) || !mayLie || !lies()) await driver.clear(vm)
      }),
  }
}

const letsRun = new Set<Effect['call']>(['start', 'activate', 'resume'])

/** A guest's hypervisor is gone, and with it the guest and all that it sent or received. */
export function endGuest({ world, goesOn }: Machine, vm: string): void {
  world.guests.delete(vm)
  forgetLoading(goesOn.loading, vm)
  goesOn.sending.get(vm)?.stop()
}

/**
 * What a hypervisor does when the agent that moved its guest is gone: a source that was not done runs on, a target that
 * had a part of the image ends (`qemu.md`).
 */
export function agentGone({ world, fed, goesOn }: Machine, life: Life): void {
  for (const guest of world.guests.values()) {
    if (goesOn.sending.has(guest.vm)) continue
    if (guest.state === 'paused') setState(guest, 'running', life.clock)
    if (guest.state === 'receiving' && fed.has(guest.vm)) world.guests.delete(guest.vm)
  }
  fed.clear()
}

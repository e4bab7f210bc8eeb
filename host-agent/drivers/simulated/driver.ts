import { Type } from 'typebox'
import type { Static } from 'typebox'
import type { GuestNeeds } from '@ferry/schemas/guest'
import type { CopyProgress } from '@ferry/schemas/policy'
import type { HostRefusal } from '@ferry/schemas/refusal'
import type { Clock } from '@ferry/events/clock'
import { CopyFailed, NeverStarted } from '../../driver.ts'
import type { Begun, Driver, Hypervisor, PerformOrder, SentByHypervisor } from '../../driver.ts'
import { imageFromPieces } from '../../transfer/image.ts'
import { readDefinition } from '../read-definition.ts'
import { PAGE_BYTES, catchUp, setState } from './guest.ts'
import type { SimulatedGuest } from './guest.ts'
import { lastRecord, loader, pageRecords } from './image.ts'

/**
 * The world of a simulated host: its guests outlive the driver, as QEMU's processes outlive an agent. For tests, for
 * scale, and for machines without a hypervisor.
 */
export type SimulatedHost = {
  readonly guests: Map<string, SimulatedGuest>
  readonly memoryBytes: number
  /** What the operator wrote about a guest; undefined where there is no such guest. */
  readonly definitionOf: (vm: string) => Promise<unknown>
}

export const SimulatedVm = Type.Object(
  {
    memoryMiB: Type.Integer({ minimum: 1, maximum: 4096 }),
    /** How fast it makes its memory dirty. */
    pagesPerSecond: Type.Number({ minimum: 0 }),
  },
  { additionalProperties: false },
)
type SimulatedVm = Static<typeof SimulatedVm>

export function simulatedDriver(world: SimulatedHost, clock: Clock): Driver {
  const { guests, memoryBytes } = world
  const listeners = new Set<() => void>()
  const become = (guest: SimulatedGuest, state: SimulatedGuest['state']) => {
    setState(guest, state, clock)
    for (const tell of listeners) tell()
  }
  const remove = (vm: string) => {
    guests.delete(vm)
    for (const tell of listeners) tell()
  }
  const hypervisor: Hypervisor = {
    hypervisor: 'simulated',
    hypervisorVersion: '1',
    cpu: 'simulated',
    machines: ['simulated'],
    cpuModels: ['simulated'],
    accelerators: ['simulated'],
    memoryBytes,
  }
  const add = (vm: string, text: string, described: SimulatedVm): SimulatedGuest | HostRefusal => {
    const needs = needsOf(described)
    const used = [...guests.values()].reduce((sum, guest) => sum + guest.needs.memoryBytes, 0)
    const freeBytes = Math.max(0, memoryBytes - used)
    if (needs.memoryBytes > freeBytes)
      return { type: 'NotEnoughMemory', neededBytes: needs.memoryBytes, freeBytes }
    const guest: SimulatedGuest = {
      vm,
      needs,
      definition: text,
      memory: Buffer.alloc(needs.memoryBytes),
      dirty: new Set(),
      pagesPerSecond: described.pagesPerSecond,
      state: 'paused',
      cursor: 0,
      written: 0,
      ranUntil: clock.elapsed(),
    }
    guests.set(vm, guest)
    return guest
  }

  return {
    hypervisor,
    inspect: async () =>
      [...guests.values()].map(({ vm, needs, state, receives }) => ({
        vm,
        needs,
        state,
        ...(receives === undefined ? {} : { receives }),
      })),

    start: async (vm) => {
      const here = guests.get(vm)
      if (here?.state === 'running') return begun(here)
      if (here !== undefined)
        return { refusal: { type: 'GuestAlreadyHere', vm, state: here.state } }
      const described = await world.definitionOf(vm)
      if (described === undefined) return { refusal: { type: 'UnknownDefinition', vm } }
      const text = JSON.stringify(described)
      const read = readDefinition(SimulatedVm, text)
      if ('refusal' in read) return read
      const made = add(vm, text, read.definition)
      if ('type' in made) return { refusal: made }
      become(made, 'running')
      return begun(made)
    },

    begin: async (vm) => {
      const here = guests.get(vm)
      if (here === undefined) return { refusal: { type: 'GuestGone', vm } }
      return here.state === 'running'
        ? begun(here)
        : { refusal: { type: 'GuestNotRunning', vm, state: here.state } }
    },

    prepare: async ({ vm, definition, migration, attempt }) => {
      const here = guests.get(vm)
      if (here !== undefined) {
        const isForThis =
          here.receives?.migration === migration && here.receives.attempt === attempt
        if (isForThis && here.state === 'receiving') return undefined
        if (here.receives === undefined || here.state === 'running')
          return { type: 'GuestAlreadyHere', vm, state: here.state }
        remove(vm)
      }
      const read = readDefinition(SimulatedVm, definition)
      if ('refusal' in read) return read.refusal
      const made = add(vm, definition, read.definition)
      if ('type' in made) return made
      made.receives = { migration, attempt }
      become(made, 'receiving')
      return undefined
    },

    perform: async (vm, order) => {
      const guest = guests.get(vm)
      if (guest === undefined) throw new CopyFailed({ type: 'GuestGone', vm })
      if (guest.state !== 'running') throw new CopyFailed({ type: 'AgentRestarted' })
      return copyOut(guest, order, clock, become)
    },

    receive: async (vm, { fill, signal }) => {
      const guest = guests.get(vm)
      if (guest === undefined) throw new CopyFailed({ type: 'GuestGone', vm })
      if (guest.state !== 'receiving') throw new CopyFailed({ type: 'AgentRestarted' })
      const { stream, isWhole } = loader(guest)
      // A hypervisor that was cut off in the middle ends, as QEMU does.
      await fill(stream).catch((error: unknown) => {
        remove(vm)
        throw error
      })
      signal.throwIfAborted()
      if (!isWhole())
        throw new CopyFailed({ type: 'HypervisorFailed', message: 'the image has no last record' })
      become(guest, 'loaded')
      return { loadedAt: clock.now() }
    },

    activate: async (vm) => {
      const guest = guests.get(vm)
      if (guest === undefined) throw new NeverStarted({ type: 'GuestGone', vm })
      delete guest.receives
      if (guest.state !== 'running') become(guest, 'running')
      return { runningAt: clock.now() }
    },

    release: async (vm) => remove(vm),

    resume: async (vm) => {
      const guest = guests.get(vm)
      if (guest === undefined) return undefined
      const wasPaused = guest.state !== 'running'
      if (wasPaused) become(guest, 'running')
      return { wasPaused, runningAt: clock.now() }
    },

    clear: async (vm) => {
      const guest = guests.get(vm)
      if (guest?.receives !== undefined && guest.state !== 'running') remove(vm)
    },

    onChange: (listener) => void listeners.add(listener),
    close: async () => listeners.clear(),
  }
}

const CHUNK_PAGES = 64
const MOST_ROUNDS = 1000

/** Precopy: all pages, then those that got dirty meanwhile, until the rest fits into the downtime that is wished for. */
async function copyOut(
  guest: SimulatedGuest,
  order: PerformOrder,
  clock: Clock,
  become: (guest: SimulatedGuest, state: SimulatedGuest['state']) => void,
): Promise<SentByHypervisor> {
  const { dial, signal } = order
  let policy = dial.policy()
  /** From when on, and behind how many bytes, the present limit holds. */
  let limited = { at: clock.elapsed(), bytes: 0 }
  const forgetDial = dial.onTurn(policy, async (next) => {
    policy = next
    limited = { at: clock.elapsed(), bytes: sentBytes }
  })
  const began = clock.elapsed()
  const fullSpeed = guest.pagesPerSecond
  const totalBytes = guest.memory.length
  let sentBytes = 0
  let round = 0
  const times = { pausedAt: 0, gatePassedAt: 0, sentAt: 0 }

  const bandwidth = () => (sentBytes * 1000) / Math.max(1, clock.elapsed() - began)
  const progress = (): CopyProgress => {
    const remainingBytes = guest.dirty.size * PAGE_BYTES
    return {
      round,
      transferredBytes: sentBytes,
      remainingBytes,
      totalBytes,
      bandwidthBytesPerSecond: bandwidth(),
      dirtyBytesPerSecond: guest.pagesPerSecond * PAGE_BYTES,
      expectedDowntimeMs: (remainingBytes * 1000) / Math.max(1, bandwidth()),
      throttlePercent: Math.round(100 - (100 * guest.pagesPerSecond) / Math.max(1, fullSpeed)),
    }
  }
  async function* sweep(): AsyncGenerator<Buffer, void, undefined> {
    const pages = [...guest.dirty]
    guest.dirty.clear()
    for (let at = 0; at < pages.length; at += CHUNK_PAGES) {
      signal.throwIfAborted()
      catchUp(guest, clock)
      const records = pageRecords(guest, pages.slice(at, at + CHUNK_PAGES))
      sentBytes += records.length
      yield records
      const limit = policy.bandwidthBytesPerSecond
      const aheadMs =
        limit === undefined
          ? 0
          : ((sentBytes - limited.bytes) * 1000) / limit - (clock.elapsed() - limited.at)
      // Somebody else must have a turn as well, or no page would ever get dirty.
      await clock.sleep(guest.state === 'running' ? Math.max(0, aheadMs) : 0, signal)
    }
  }
  async function* image(): AsyncGenerator<Buffer, void, undefined> {
    for (let page = 0; page < totalBytes / PAGE_BYTES; page++) guest.dirty.add(page)
    do {
      round += 1
      yield* sweep()
      catchUp(guest, clock)
      order.round(progress())
      order.progress(progress())
      if (policy.autoConverge && round > 2) guest.pagesPerSecond *= 0.8
    } while (progress().expectedDowntimeMs > policy.downtimeMs && round < MOST_ROUNDS)

    become(guest, 'paused')
    times.pausedAt = clock.now()
    order.paused(times.pausedAt)
    await order.gate()
    times.gatePassedAt = clock.now()
    yield* sweep()
    yield lastRecord(guest)
  }

  try {
    await order.send(imageFromPieces(image()))
    become(guest, 'sent')
    times.sentAt = clock.now()
    return { ...times, rounds: round }
  } catch (error) {
    // D5, and as QEMU does: what was not wholly sent runs on at home, even if all of it has arrived.
    if (guest.state === 'paused') become(guest, 'running')
    throw error
  } finally {
    guest.pagesPerSecond = fullSpeed
    forgetDial()
  }
}

const begun = ({ needs, definition }: SimulatedGuest): Begun => ({ needs, definition })

const needsOf = ({ memoryMiB }: SimulatedVm): GuestNeeds => ({
  memoryBytes: memoryMiB * 1024 ** 2,
  vcpus: 1,
  hypervisor: 'simulated',
  machine: 'simulated',
  cpu: 'simulated',
  accelerator: 'simulated',
})

import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Type } from 'typebox'
import type { Static } from 'typebox'
import { GuestNeeds } from '@ferry/schemas/guest'
import type { HostRefusal } from '@ferry/schemas/refusal'
import { readDefinition } from '../read-definition.ts'
import { unlessMissing } from '../whole-file.ts'
import type { Begun, Driver } from '../../driver.ts'
import { madeFor } from './copy.ts'
import { disksOf, missingOf } from './disks.ts'
import { incoming, migratedAway } from './handshake.ts'
import { nameIn, needsOf } from './listing.ts'
import type { Config } from './listing.ts'
import { lookFor, xenMoves } from './moves.ts'
import type { Notes } from './notes.ts'
import type { XenFacts } from './probe.ts'
import { refuseRoom } from './room.ts'
import { watchStore } from './store.ts'
import { XlFailed } from './xl.ts'
import type { Xl } from './xl.ts'

/** Guests of Xen, by `xl`: PVH and HVM move while they run, PV guests stand still for the time of their copy. */
export type XenSettings = {
  readonly xl: Xl
  readonly notes: Notes
  /** Where the operator's files stand, `<name>.cfg`. */
  readonly definitions: string
  /** What the host starts by itself when it comes up. */
  readonly startsByItself: string
  readonly facts: XenFacts
}

/** What travels to the target; how the guest was made, xl itself says in front of the image. */
const Definition = Type.Object(
  {
    memoryMiB: Type.Integer({ minimum: 1 }),
    needs: GuestNeeds,
    disks: Type.Array(Type.String()),
  },
  { additionalProperties: false },
)
type Definition = Static<typeof Definition>

const MEBIBYTE = 1024 ** 2
const CHANGES = ['@introduceDomain', '@releaseDomain', '/vm']

export function xenDriver(settings: XenSettings): Driver {
  const { xl, notes, definitions, startsByItself, facts } = settings
  const look = (vm: string) => lookFor(vm, xl, notes)
  const watching = new Set<() => void>()

  const configOf = async (domid: number): Promise<Config | undefined> =>
    (await xl.configs()).get(domid)

  const begun = (config: Config): Begun => {
    const needs = needsOf(config)
    const disks = disksOf(config)
    const memoryMiB = Math.ceil(needs.memoryBytes / MEBIBYTE)
    const definition: Definition = { memoryMiB, needs, disks }
    return { needs, definition: JSON.stringify(definition) }
  }

  const started = async (vm: string, domid: number): Promise<Begun> => {
    const config = await configOf(domid)
    return config === undefined ? { refusal: { type: 'GuestGone', vm } } : begun(config)
  }

  const refusalToLeave = async (vm: string, config: Config): Promise<HostRefusal | undefined> => {
    if (!facts.canResume)
      return {
        type: 'CapabilityMissing',
        capability: 'letting a suspended guest run on: its helper xen-resume is not there',
        hypervisor: `Ferry on Xen ${facts.hypervisor.hypervisorVersion}`,
      }
    if (await isAutomatic(startsByItself, vm)) return { type: 'StartsByItself', vm }
    return (config.pcidevs ?? []).length > 0
      ? failed('a guest with devices of its host cannot leave')
      : undefined
  }

  return {
    ...xenMoves(xl, notes),
    hypervisor: facts.hypervisor,

    start: async (vm) => {
      const here = await look(vm)
      if (here?.domain !== undefined && here.state === 'running')
        return started(vm, here.domain.domid)
      if (here !== undefined)
        return { refusal: { type: 'GuestAlreadyHere', vm, state: here.state } }
      // A name with a slash would leave the folder.
      const file = join(definitions, `${encodeURIComponent(vm)}.cfg`)
      const text = await unlessMissing(() => readFile(file, 'utf8'))
      if (text === undefined) return { refusal: { type: 'UnknownDefinition', vm } }
      if (nameIn(text) !== vm || isTaken(vm))
        return { refusal: { type: 'DefinitionInvalid', path: 'name', problem: `is not ${vm}` } }
      try {
        await xl.create(file)
      } catch (error) {
        return { refusal: refusalOf(error) }
      }
      const domain = (await look(vm))?.domain
      return domain === undefined
        ? { refusal: failed('it ended while it started') }
        : started(vm, domain.domid)
    },

    begin: async (vm) => {
      const here = await look(vm)
      if (here?.domain === undefined) return { refusal: { type: 'GuestGone', vm } }
      if (here.state !== 'running')
        return { refusal: { type: 'GuestNotRunning', vm, state: here.state } }
      const config = await configOf(here.domain.domid)
      if (config === undefined) return { refusal: { type: 'GuestGone', vm } }
      const refusal = await refusalToLeave(vm, config)
      return refusal === undefined ? begun(config) : { refusal }
    },

    prepare: async ({ vm, migration, attempt, definition: text }) => {
      const here = await look(vm)
      if (here !== undefined && madeFor(here) === undefined)
        return { type: 'GuestAlreadyHere', vm, state: here.state }
      const read = readDefinition(Definition, text)
      if ('refusal' in read) return read.refusal
      const { needs, memoryMiB, disks } = read.definition
      if (!facts.hypervisor.machines.includes(needs.machine))
        return { type: 'MachineUnsupported', machine: needs.machine }
      const receives = { migration, attempt }
      const isSame =
        here?.domain === undefined &&
        JSON.stringify(here?.note?.receives) === JSON.stringify(receives)
      if (here !== undefined && !isSame) await xenMoves(xl, notes).clear(vm)
      const missing = await missingOf(disks)
      if (missing !== undefined) return { type: 'DiskMissing', path: missing }
      const neededBytes = Math.max(needs.memoryBytes, memoryMiB * MEBIBYTE)
      const refusal = await refuseRoom(vm, neededBytes, xl, notes, incoming)
      if (refusal !== undefined) return refusal
      await notes.write({ vm, receives, needs, isLoaded: false })
      return undefined
    },

    onChange: (listener) => void watching.add(watchStore(CHANGES, listener)),
    close: async () => {
      for (const stop of watching) stop()
      watching.clear()
    },
  }
}

/** xl itself gives such names to guests that are between two hosts. */
const isTaken = (vm: string) => vm.endsWith(incoming('')) || vm.endsWith(migratedAway(''))

const failed = (message: string): HostRefusal => ({ type: 'HypervisorFailed', message })

/** What xl says when it will not; anything else is an error. */
function refusalOf(error: unknown): HostRefusal {
  if (!(error instanceof XlFailed)) throw error
  return failed(error.message)
}

/** `xendomains` starts what stands there, wherever the guest runs by then. */
async function isAutomatic(folder: string, vm: string): Promise<boolean> {
  const names = (await unlessMissing(() => readdir(folder))) ?? []
  for (const name of names) {
    const text = await unlessMissing(() => readFile(join(folder, name), 'utf8'))
    if (text !== undefined && nameIn(text) === vm) return true
  }
  return false
}

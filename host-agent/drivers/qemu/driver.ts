import { readFile } from 'node:fs/promises'
import { freemem } from 'node:os'
import { join } from 'node:path'
import { Invalid, parse } from '@ferry/schemas/parse'
import type { HostRefusal } from '@ferry/schemas/refusal'
import type { Clock } from '@ferry/events/clock'
import type { Begun, Driver, Landing } from '../../driver.ts'
import { folderOf } from '../../folders.ts'
import { readDefinition } from '../read-definition.ts'
import { QemuNotStarted, findCopies, findLost, kill, launch } from './copy.ts'
import type { GuestFile } from './copy.ts'
import { Definition, VmFile, needsOf, resolve } from './definition.ts'
import { checkFiles } from './disks.ts'
import { queryMigration } from './migration.ts'
import { letRun, openMonitors } from './monitors.ts'
import type { Attached } from './monitors.ts'
import { qemuMoves } from './moves.ts'
import { neededCapabilities } from './probe.ts'
import type { QemuFacts } from './probe.ts'

/** Guests as QEMU processes that outlive the agent; the agent speaks to each through its monitor. */
export type QemuSettings = {
  readonly binary: string
  /** Where copies live: sockets, logs, and what each was started as. */
  readonly guests: string
  /** Where the operator's definitions stand: `<name>.json`. */
  readonly definitions: string
  readonly facts: QemuFacts
  readonly clock: Clock
}

export function qemuDriver(settings: QemuSettings): Driver {
  const { binary, guests, definitions, facts, clock } = settings
  const monitors = openMonitors({ guests, clock, monitor: 'agent' })
  const { attach, look, end, onChange } = monitors

  /** @returns why this host has no room, counting every copy that is here. */
  async function checkRoom(neededBytes: number): Promise<HostRefusal | undefined> {
    const copies = await findCopies(guests)
    const used = copies.reduce((sum, { file }) => sum + needsOf(file.definition).memoryBytes, 0)
    const freeBytes = Math.max(0, Math.min(facts.hypervisor.memoryBytes - used, freemem()))
    return neededBytes > freeBytes ? { type: 'NotEnoughMemory', neededBytes, freeBytes } : undefined
  }

  function lacks(needed: readonly string[]): HostRefusal | undefined {
    const capability = needed.find((each) => !facts.capabilities.includes(each))
    return capability === undefined
      ? undefined
      : {
          type: 'CapabilityMissing',
          capability,
          hypervisor: `QEMU ${facts.hypervisor.hypervisorVersion}`,
        }
  }

  function checkMachine({
    machine,
    accelerator,
    cpu,
  }: ReturnType<typeof needsOf>): HostRefusal | undefined {
    const { machines, accelerators, cpuModels } = facts.hypervisor
    if (!machines.includes(machine)) return { type: 'MachineUnsupported', machine }
    if (!accelerators.includes(accelerator)) return { type: 'AcceleratorUnsupported', accelerator }
    return cpuModels.includes(cpu) ? undefined : { type: 'CpuUnsupported', cpu }
  }

  async function launchChecked(file: GuestFile): Promise<HostRefusal | undefined> {
    const needs = needsOf(file.definition)
    const refusal = checkMachine(needs) ?? (await checkRoom(needs.memoryBytes))
    if (refusal !== undefined) return refusal
    const folder = folderOf(guests, file.vm)
    const lost = await findLost(folder)
    if (lost !== undefined) return { type: 'GuestAlreadyHere', vm: file.vm, state: 'unresponsive' }
    // QEMU starts while the files are looked at: paused, it changes nothing, and what is wrong with a file is said better.
    const launching = launch(binary, folder, file)
    const [launched, files] = await Promise.allSettled([launching, checkFiles(file.definition)])
    const isWrong = files.status === 'rejected' || files.value !== undefined
    if (launched.status === 'fulfilled' && isWrong) await kill(launched.value, clock)
    if (files.status === 'rejected') throw files.reason
    if (files.value !== undefined || launched.status === 'fulfilled') return files.value
    if (!(launched.reason instanceof QemuNotStarted)) throw launched.reason
    return { type: 'HypervisorFailed', message: launched.reason.said }
  }

  const begun = ({ copy }: Attached): Begun => ({
    needs: needsOf(copy.file.definition),
    definition: JSON.stringify(copy.file.definition),
  })

  return {
    ...qemuMoves(monitors),
    hypervisor: facts.hypervisor,

    start: async (vm) => {
      const here = await look(vm)
      if (here?.state === 'running') return begun(here)
      if (here !== undefined && here.state !== 'paused')
        return { refusal: { type: 'GuestAlreadyHere', vm, state: here.state } }
      if (here === undefined) {
        const file = await definitionOf(definitions, vm)
        if ('refusal' in file) return file
        const refusal = await launchChecked({
          vm,
          definition: resolve(file.vmFile, { ...facts, ...facts.hypervisor }),
        })
        if (refusal !== undefined) return { refusal }
      }
      const made = await attach(vm)
      if (made === undefined)
        return { refusal: { type: 'HypervisorFailed', message: 'it ended while it started' } }
      await letRun(made.qmp, clock)
      return begun(made)
    },

    begin: async (vm) => {
      const here = await look(vm)
      if (here === undefined) return { refusal: { type: 'GuestGone', vm } }
      if (here.state !== 'running')
        return { refusal: { type: 'GuestNotRunning', vm, state: here.state } }
      const lacking = lacks(neededCapabilities.source)
      if (lacking !== undefined) return { refusal: lacking }
      const { 'blocked-reasons': blocked = [] } = await queryMigration(here.qmp)
      if (blocked.length > 0)
        return { refusal: { type: 'HypervisorFailed', message: blocked.join('; ') } }
      return begun(here)
    },

    prepare: async ({ vm, definition: text, migration, attempt }: Landing) => {
      const receives = { migration, attempt }
      const here = await look(vm)
      if (here !== undefined) {
        const { state } = here
        const isForThis =
          here.copy.file.receives?.migration === migration &&
          here.copy.file.receives.attempt === attempt
        if (isForThis && state === 'receiving') return undefined
        if (here.copy.file.receives === undefined || state === 'running')
          return { type: 'GuestAlreadyHere', vm, state }
        await end(here)
      }
      const read = readDefinition(Definition, text)
      if ('refusal' in read) return read.refusal
      const { definition } = read
      const refusal =
        lacks(neededCapabilities.target) ?? (await launchChecked({ vm, definition, receives }))
      // Whoever fills and starts the copy does it through another monitor: this one hears of it.
      if (refusal === undefined) await attach(vm)
      return refusal
    },

    onChange,
  }
}

async function definitionOf(
  folder: string,
  vm: string,
): Promise<{ vmFile: VmFile } | { refusal: HostRefusal }> {
  // A name with a slash would leave the folder.
  const path = join(folder, `${encodeURIComponent(vm)}.json`)
  try {
    return { vmFile: parse(VmFile, JSON.parse(await readFile(path, 'utf8')), path) }
  } catch (error) {
    if (error instanceof Invalid)
      return { refusal: { type: 'DefinitionInvalid', path: error.path, problem: error.message } }
    if (error instanceof SyntaxError)
      return { refusal: { type: 'DefinitionInvalid', path, problem: error.message } }
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT')
      return { refusal: { type: 'UnknownDefinition', vm } }
    throw error
  }
}

import { readFile } from 'node:fs/promises'
import { freemem } from 'node:os'
import { join } from 'node:path'
import { Type } from 'typebox'
import { Invalid, parse } from '@ferry/schemas/parse'
import type { GuestState } from '@ferry/schemas/guest'
import type { HostRefusal } from '@ferry/schemas/refusal'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { CopyFailed, NeverStarted } from '../../driver.ts'
import type { Begun, Driver, Landing } from '../../driver.ts'
import {
  QemuNotStarted,
  checkDepth,
  describe,
  findCopies,
  findCopy,
  folderOf,
  kill,
  launch,
} from './copy.ts'
import type { Copy, GuestFile } from './copy.ts'
import { Definition, VmFile, needsOf, resolve } from './definition.ts'
import { checkFiles } from './disks.ts'
import { isUnderWay, queryMigration } from './migration.ts'
import { perform } from './perform.ts'
import type { QemuFacts } from './probe.ts'
import { QmpClosed, connectQmp } from './qmp.ts'
import type { Qmp, QmpEvent } from './qmp.ts'
import { receive } from './receive.ts'

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

/** A copy and the monitor to it. */
export type Attached = { readonly copy: Copy; readonly qmp: Qmp }

type Looked = Attached & { readonly state: GuestState }

const RESUME_MS = 10_000
const CANCEL_MS = 20_000
const QUIT_MS = 3000
/** How long a process may take from closing its monitor to its end. */
const GOING_MS = 5000
const LOOK_AGAIN_MS = 20

export function qemuDriver(settings: QemuSettings): Driver {
  const { binary, guests, definitions, facts, clock } = settings
  checkDepth(guests)
  const attached = new Map<string, Attached>()
  const attaching = new Map<string, Promise<Attached | undefined>>()
  const listeners = new Set<() => void>()
  let isClosed = false
  const changed = () => {
    for (const tell of listeners) tell()
  }

  /**
   * The monitor of a guest's copy, opened when it is not; undefined where there is no copy. QEMU greets one visitor at
   * a time: whoever comes second waits for what the first one finds.
   */
  async function attach(vm: string): Promise<Attached | undefined> {
    for (let other = attaching.get(vm); other !== undefined; other = attaching.get(vm))
      await other.catch(() => {})
    const known = attached.get(vm)
    if (known !== undefined && !known.qmp.isClosed()) return known
    const opening = open(vm)
    attaching.set(vm, opening)
    try {
      return await opening
    } finally {
      attaching.delete(vm)
    }
  }

  async function open(vm: string): Promise<Attached | undefined> {
    const copy = await findCopy(folderOf(guests, vm))
    if (copy === undefined) return undefined
    const qmp = await connectQmp(join(copy.folder, 'agent.qmp'), clock)
    if (isClosed) {
      // QEMU speaks to one visitor at a time, and that is the next agent.
      qmp.close()
      throw new Error(`the agent let go of ${vm} while it looked for it`)
    }
    const fresh = { copy, qmp }
    attached.set(vm, fresh)
    qmp.onEvent(({ event }) => {
      if (event === 'STOP' || event === 'RESUME' || event === 'SHUTDOWN') changed()
    })
    void qmp.closed.then(() => {
      if (attached.get(vm) === fresh) attached.delete(vm)
      changed()
    })
    return fresh
  }

  /** What a copy is doing now; undefined where there is none, also when it ended while it was asked. */
  async function look(vm: string): Promise<Looked | undefined> {
    const began = clock.elapsed()
    for (;;) {
      try {
        const found = await attach(vm)
        return found && { ...found, state: await stateOf(found) }
      } catch (error) {
        // A process that ends closes its monitor first: look again until it is gone.
        if (!(error instanceof QmpClosed) || clock.elapsed() - began > GOING_MS) throw error
      }
      await clock.sleep(LOOK_AGAIN_MS)
    }
  }

  async function end({ copy, qmp }: Attached): Promise<void> {
    await qmp.execute('quit').catch(() => {})
    await within(clock, QUIT_MS, 'quitting', qmp.closed).catch(() => {})
    qmp.close()
    await kill(copy, clock)
  }

  /** @returns why this host has no room, counting every copy that is here. */
  async function checkRoom(neededBytes: number): Promise<HostRefusal | undefined> {
    const copies = await findCopies(guests)
    const used = copies.reduce((sum, { file }) => sum + needsOf(file.definition).memoryBytes, 0)
    const freeBytes = Math.max(0, Math.min(facts.hypervisor.memoryBytes - used, freemem()))
    return neededBytes > freeBytes ? { type: 'NotEnoughMemory', neededBytes, freeBytes } : undefined
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
    // QEMU starts while the files are looked at: paused, it changes nothing, and what is wrong with a file is said better.
    const launching = launch(binary, folderOf(guests, file.vm), file)
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
    hypervisor: facts.hypervisor,

    inspect: async () => {
      const copies = await findCopies(guests)
      const seen = await Promise.all(
        copies.map(async ({ file: { vm, definition } }) => ({
          vm,
          needs: needsOf(definition),
          state: await look(vm).then(
            (seen) => seen?.state,
            () => 'unresponsive' as const,
          ),
        })),
      )
      return seen.flatMap(({ state, ...guest }) =>
        state === undefined ? [] : [{ ...guest, state }],
      )
    },

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
      for (const capability of ['events', 'pause-before-switchover'])
        if (!facts.capabilities.includes(capability))
          return {
            refusal: {
              type: 'CapabilityMissing',
              capability,
              hypervisor: `QEMU ${facts.hypervisor.hypervisorVersion}`,
            },
          }
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
      let definition: Definition
      try {
        definition = parse(Definition, JSON.parse(text), 'the definition')
      } catch (error) {
        if (!(error instanceof Invalid)) throw error
        return { type: 'DefinitionInvalid', path: error.path, problem: error.problem }
      }
      return launchChecked({ vm, definition, receives })
    },

    perform: async (vm, order) => {
      const here = await look(vm)
      if (here === undefined) throw new CopyFailed({ type: 'GuestGone', vm })
      // Another agent began it: what it sent, and to whom, nobody knows any more.
      if (here.state !== 'running' || isUnderWay(await queryMigration(here.qmp)))
        throw new CopyFailed({ type: 'AgentRestarted' })
      return perform(here, order, clock)
    },

    receive: async (vm, order) => {
      const here = await look(vm)
      if (here === undefined) throw new CopyFailed({ type: 'GuestGone', vm })
      if (here.state !== 'receiving' || isUnderWay(await queryMigration(here.qmp)))
        throw new CopyFailed({ type: 'AgentRestarted' })
      return receive(here, order, clock)
    },

    activate: async (vm) => {
      const here = await look(vm)
      if (here === undefined) throw new NeverStarted({ type: 'GuestGone', vm })
      const { copy, qmp, state } = here
      const runningAt = state === 'running' ? clock.now() : await letRun(qmp, clock)
      const { receives: _, ...file } = copy.file
      await describe(copy.folder, file)
      attached.set(vm, { qmp, copy: { ...copy, file } })
      return { runningAt }
    },

    release: async (vm) => {
      // One that does not even answer any more is ended all the same: the guest runs elsewhere.
      const here = await attach(vm).catch(() => undefined)
      if (here !== undefined) return end(here)
      const copy = await findCopy(folderOf(guests, vm))
      if (copy !== undefined) await kill(copy, clock)
    },

    resume: async (vm) => {
      const here = await look(vm)
      if (here === undefined) return undefined
      const wasPaused = here.state !== 'running'
      await stopCopying(here.qmp, clock)
      const runningAt =
        (await stateOf(here)) === 'running' ? clock.now() : await letRun(here.qmp, clock)
      return { wasPaused, runningAt }
    },

    clear: async (vm) => {
      const here = await look(vm)
      // D6: a copy without its mark has run, or may have.
      if (here?.copy.file.receives === undefined || here.state === 'running') return
      await end(here)
    },

    onChange: (listener) => void listeners.add(listener),

    close: async () => {
      isClosed = true
      listeners.clear()
      for (const { qmp } of attached.values()) qmp.close()
    },
  }
}

const Status = Type.Object({ status: Type.String() })

/** QEMU's run state in our words. One with a mark has never been started here. */
async function stateOf({ copy, qmp }: Attached): Promise<GuestState> {
  const { status } = parse(Status, await qmp.execute('query-status'), 'query-status')
  if (status === 'running') return 'running'
  if (status === 'postmigrate') return 'sent'
  if (copy.file.receives === undefined) return 'paused'
  return status === 'paused' ? 'loaded' : 'receiving'
}

/** Lets the vCPUs run. @returns when they did, by QEMU's own event. */
async function letRun(qmp: Qmp, clock: Clock): Promise<number> {
  const resumed = nextEvent(qmp, ({ event }) => event === 'RESUME')
  try {
    await qmp.execute('cont')
    return (await within(clock, RESUME_MS, 'RESUME', resumed.event)).at
  } finally {
    resumed.forget()
  }
}

/** Ends a migration that is under way, and waits until QEMU says that it has ended. */
async function stopCopying(qmp: Qmp, clock: Clock): Promise<void> {
  const ended = nextEvent(qmp, ({ event, data }) => event === 'MIGRATION' && isFinal(data.status))
  try {
    if (!isUnderWay(await queryMigration(qmp))) return
    await qmp.execute('migrate_cancel')
    if (isUnderWay(await queryMigration(qmp)))
      await within(clock, CANCEL_MS, 'the end of the copying', ended.event)
  } finally {
    ended.forget()
  }
}

const isFinal = (status: unknown): boolean =>
  status === 'cancelled' || status === 'failed' || status === 'completed'

function nextEvent(qmp: Qmp, isIt: (event: QmpEvent) => boolean) {
  let forget = () => {}
  const event = new Promise<QmpEvent>((resolve) => {
    forget = qmp.onEvent((each) => {
      if (isIt(each)) resolve(each)
    })
  })
  return { event, forget: () => forget() }
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

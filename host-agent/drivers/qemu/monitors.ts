import { Type } from 'typebox'
import type { GuestState } from '@ferry/schemas/guest'
import { parse } from '@ferry/schemas/parse'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { checkDepth, folderOf } from '../../folders.ts'
import { describedNow, findCopy, kill, socketsIn } from './copy.ts'
import type { Copy } from './copy.ts'
import { queryMigration } from './migration.ts'
import { QmpClosed, connectQmp, nextEvent } from './qmp.ts'
import type { Qmp } from './qmp.ts'

/** A copy and the monitor to it. */
export type Attached = { readonly copy: Copy; readonly qmp: Qmp }

type Looked = Attached & { readonly state: GuestState }

/** The copies on this host, each by its monitor. */
export type Monitors = {
  readonly guests: string
  readonly clock: Clock
  readonly attach: (vm: string) => Promise<Attached | undefined>
  readonly look: (vm: string) => Promise<Looked | undefined>
  readonly end: (copy: Attached) => Promise<void>
  readonly onChange: (listener: () => void) => void
  readonly close: () => Promise<void>
}

/** The agent ends: its successor looks after the guests. */
class LetGo extends Error {
  override readonly name = 'LetGo'

  constructor(vm: string) {
    super(`the agent ends, and lets go of ${vm}`)
  }
}

const RESUME_MS = 10_000
const QUIT_MS = 3000
/** How long a process may take from closing its monitor to its end. */
const GOING_MS = 5000
const LOOK_AGAIN_MS = 20

export function openMonitors({
  guests,
  clock,
  monitor,
}: {
  readonly guests: string
  readonly clock: Clock
  /** Which of a copy's monitors this process speaks through: no other one may use it at the same time. */
  readonly monitor: 'agent' | 'mover'
}): Monitors {
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
    if (isClosed) throw new LetGo(vm)
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
    const qmp = await connectQmp(socketsIn(copy.folder)[monitor], clock)
    if (isClosed) {
      // QEMU speaks to one visitor at a time, and that is the next agent.
      qmp.close()
      throw new LetGo(vm)
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
        const copy = found && (await describedNow(found.copy))
        return copy && { ...found, copy, state: await stateOf({ ...found, copy }) }
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

  return {
    guests,
    clock,
    attach,
    look,
    end,
    onChange: (listener) => void listeners.add(listener),

    close: async () => {
      isClosed = true
      listeners.clear()
      for (const { qmp } of attached.values()) qmp.close()
    },
  }
}

const Status = Type.Object({ status: Type.String() })

const statusOf = async (qmp: Qmp): Promise<string> =>
  parse(Status, await qmp.execute('query-status'), 'query-status').status

/** QEMU's run state in our words. One with a mark has never been started here. */
export async function stateOf({ copy, qmp }: Attached): Promise<GuestState> {
  const status = await statusOf(qmp)
  if (status === 'running') return 'running'
  if (status === 'postmigrate') return (await isLeftByQemu(qmp)) ? 'paused' : 'sent'
  if (copy.file.receives === undefined) return 'paused'
  return status === 'paused' ? 'loaded' : 'receiving'
}

/**
 * Whether somebody has paused the guest through a monitor of its QEMU, which keeps them apart: what is switched over is
 * "finish-migrate" and then "postmigrate", and what was never started is "prelaunch". Only a copy with a mark was paused
 * by its loading.
 */
export async function isPausedByHand({ copy, qmp }: Attached): Promise<boolean> {
  if (copy.file.receives !== undefined) return false
  const status = await statusOf(qmp)
  return status === 'paused' || (status === 'postmigrate' && (await isLeftByQemu(qmp)))
}

/** A QEMU whose migration does not arrive lets the guest run on, unless somebody had paused it before the switchover. */
async function isLeftByQemu(qmp: Qmp): Promise<boolean> {
  const { status } = await queryMigration(qmp)
  return status === 'cancelled' || status === 'failed'
}

/** Lets the vCPUs run. @returns when they did, by QEMU's own event. */
export async function letRun(qmp: Qmp, clock: Clock): Promise<number> {
  const resumed = nextEvent(qmp, ({ event }) => event === 'RESUME')
  try {
    await qmp.execute('cont')
    return (await within(clock, RESUME_MS, 'RESUME', resumed.event)).at
  } finally {
    resumed.forget()
  }
}

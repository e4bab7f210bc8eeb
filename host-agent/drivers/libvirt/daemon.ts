import type { GuestState } from '@ferry/schemas/guest'
import type { Clock } from '@ferry/events/clock'
import { markIn } from './domain-xml.ts'
import type { Mark } from './domain-xml.ts'
import { procedures } from './procedures.ts'
import type { Domain } from './procedures.ts'
import { LibvirtError, connectLibvirt } from './rpc.ts'
import type { HypervisorUri, Libvirt } from './rpc.ts'
import {
  Code,
  Description,
  DomainState,
  JobType,
  Listing,
  Operation,
  PausedFor,
  RunningFor,
} from './words.ts'

/** What libvirtd knows of one guest, now. */
export type Looked = {
  readonly domain: Domain
  readonly xml: string
  readonly state: GuestState
  /** Somebody has paused it, and no migration has. */
  readonly isPausedByHand: boolean
  /** Stands there as long as the copy has never been started. */
  readonly mark: Mark | undefined
  /** Post-copy, at either end: what the target lacks is on its way, or does not come any more. */
  readonly rest: Rest | undefined
}

export type Rest = 'coming' | 'broken'

/** This host's libvirtd, and nothing that is remembered of it. */
export type Daemon = {
  readonly clock: Clock
  /** Connects beforehand, and asks once what a move will ask: all that a process does for the first time takes long. */
  readonly getReady: () => Promise<void>
  /** The connection for short calls; opened again when it was lost. */
  readonly libvirt: () => Promise<Libvirt>
  /** One more, for a call that takes as long as an image: libvirtd works on five calls of each connection at most. */
  readonly fresh: () => Promise<Libvirt>
  /** The guests that are there; what is defined and does not run is none. */
  readonly all: () => Promise<Looked[]>
  readonly look: (vm: string) => Promise<Looked | undefined>
  /** No more than how libvirt calls it. */
  readonly find: (vm: string) => Promise<Domain | undefined>
  /** What has become of it since. */
  readonly stateNow: (copy: Looked) => Promise<GuestState | undefined>
  /** What libvirtd does with it that takes long; undefined: nothing. Asked by the shared connection, or by another one. */
  readonly jobOn: (domain: Domain, by?: Libvirt) => Promise<Job | undefined>
  readonly end: (domain: Domain) => Promise<void>
  readonly onChange: (listener: () => void) => void
  readonly close: () => Promise<void>
}

/** `migration`: it is being sent away, by whomever. */
export type Job = 'migration' | 'other'

/** The agent ends: its successor looks after the guests. */
class LetGo extends Error {
  override readonly name = 'LetGo'

  constructor() {
    super('the agent ends, and lets go of libvirtd')
  }
}

export function openDaemon(socket: string, clock: Clock, uri?: HypervisorUri): Daemon {
  const open = new Set<Libvirt>()
  const atHand: Libvirt[] = []
  const listeners = new Set<() => void>()
  let shared: Promise<Libvirt> | undefined
  const ending = new AbortController()
  const changed = () => {
    for (const tell of listeners) tell()
  }

  const connect = async (): Promise<Libvirt> => {
    if (ending.signal.aborted) throw new LetGo()
    const libvirt = await connectLibvirt(socket, clock, uri)
    if (ending.signal.aborted) {
      libvirt.close()
      throw new LetGo()
    }
    open.add(libvirt)
    void libvirt.closed.then(() => open.delete(libvirt))
    return libvirt
  }
  const fresh = async (): Promise<Libvirt> => {
    const ready = atHand.pop()
    return ready === undefined || ready.isClosed() ? connect() : ready
  }
  const attach = async (): Promise<Libvirt> => {
    const libvirt = await connect()
    await libvirt.on('lifecycle', changed)
    void libvirt.closed.then(awaitReturn)
    return libvirt
  }
  /** Whoever listens hears that libvirtd is gone, and that it is there again: events of the meantime are lost. */
  const awaitReturn = async () => {
    changed()
    while (!ending.signal.aborted)
      try {
        await clock.sleep(RETURN_MS, ending.signal)
        await libvirt()
        return changed()
      } catch {
        // Not yet.
      }
  }
  const libvirt = async (): Promise<Libvirt> => {
    const known = await shared?.catch(() => undefined)
    if (known !== undefined && !known.isClosed()) return known
    const attaching = attach()
    shared = attaching
    return attaching
  }

  const seen = async (domain: Domain): Promise<Looked | undefined> => {
    const its = await libvirt()
    const [{ state, reason }, { xml }] = await Promise.all([
      its.call(procedures.state, { domain, flags: 0 }),
      its.call(procedures.describe, { domain, flags: Description.secure }),
    ])
    const mark = markIn(xml)
    const ours = stateOf(state, reason, mark)
    const isPausedByHand = ours === 'paused' && reason === PausedFor.user
    return ours && { domain, xml, mark, state: ours, isPausedByHand, rest: restOf(state, reason) }
  }
  const find = (vm: string): Promise<Domain | undefined> =>
    unlessGone(async () => {
      const its = await libvirt()
      return (await its.call(procedures.lookUp, { name: vm })).domain
    })
  const look = async (vm: string): Promise<Looked | undefined> => {
    const found = await find(vm)
    return found && unlessGone(() => seen(found))
  }

  const all = async (): Promise<Looked[]> => {
    const its = await libvirt()
    const { domains } = await its.call(procedures.domains, {
      wantsResults: 1,
      flags: Listing.active,
    })
    const found = await Promise.all(domains.map((domain) => unlessGone(() => seen(domain))))
    return found.filter((each) => each !== undefined)
  }
  const jobOn = async (domain: Domain, by?: Libvirt): Promise<Job | undefined> => {
    const its = by ?? (await libvirt())
    const asking = unlessGone(() => its.call(procedures.jobNumbers, { domain, flags: 0 }))
    // What comes has no numbers at the target.
    const job = await asking.catch((error: unknown) => {
      if (!isCode(error, Code.operationUnsupported)) throw error
      return 'other' as const
    })
    if (job === 'other') return job
    if (job === undefined || job.type === JobType.none) return undefined
    const operation = job.numbers.find(({ field }) => field === 'operation')?.value
    return operation === Operation.migrationOut ? 'migration' : 'other'
  }

  return {
    clock,
    getReady: async () => {
      const [some] = await all()
      if (some !== undefined) await Promise.all([look(some.domain.name), jobOn(some.domain)])
      atHand.push(...(await Promise.all([connect(), connect()])))
    },
    libvirt,
    fresh,
    look,
    find,
    stateNow: ({ domain, mark }) =>
      unlessGone(async () => {
        const its = await libvirt()
        const { state, reason } = await its.call(procedures.state, { domain, flags: 0 })
        return stateOf(state, reason, mark)
      }),
    all,
    jobOn,
    end: async (domain) => {
      const its = await libvirt()
      await unlessGone(() => its.call(procedures.destroy, { domain }))
    },
    onChange: (listener) => void listeners.add(listener),
    close: async () => {
      ending.abort()
      listeners.clear()
      for (const each of open) each.close()
    },
  }
}

const RETURN_MS = 500

/** libvirt's state in our words; undefined for a guest that is not there. */
function stateOf(state: number, reason: number, mark: Mark | undefined): GuestState | undefined {
  if (state === DomainState.running || state === DomainState.blocked) return 'running'
  if (state === DomainState.shutOff) return undefined
  // One that sleeps, crashed or shuts down has a QEMU as well.
  if (state !== DomainState.paused) return 'paused'
  const isOnItsWay = reason === PausedFor.migration || reason === PausedFor.startingUp
  // One that is started before all of it is there has run when it is paused for anything else.
  if (mark?.isPostCopy === true) return isOnItsWay ? 'receiving' : 'paused'
  if (mark !== undefined) return isOnItsWay ? 'receiving' : 'loaded'
  const isSent = reason === PausedFor.migration || restOf(state, reason) !== undefined
  return isSent ? 'sent' : 'paused'
}

function restOf(state: number, reason: number): Rest | undefined {
  const isPaused = state === DomainState.paused
  const { postCopy, postCopyFailed } = isPaused ? PausedFor : RunningFor
  if (!isPaused && state !== DomainState.running) return undefined
  if (reason === postCopy) return 'coming'
  return reason === postCopyFailed ? 'broken' : undefined
}

/** What ended while it was asked about is not there. */
export async function unlessGone<T>(ask: () => Promise<T>): Promise<T | undefined> {
  try {
    return await ask()
  } catch (error) {
    if (isCode(error, Code.noDomain) || isNotRunning(error)) return undefined
    throw error
  }
}

export const isCode = (error: unknown, code: number): boolean =>
  error instanceof LibvirtError && error.code === code

/** libvirt says the same code for all that is not possible now; for this one the words have not changed in ten years. */
const isNotRunning = (error: unknown): boolean =>
  error instanceof LibvirtError &&
  error.code === Code.operationInvalid &&
  error.message.includes('domain is not running')

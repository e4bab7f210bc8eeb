import type { Writable } from 'node:stream'
import type { GuestNeeds } from '@ferry/schemas/guest'
import type { GuestReport } from '@ferry/schemas/inventory'
import type { DataOf } from '@ferry/schemas/messages'
import type { CopyProgress } from '@ferry/schemas/policy'
import type { Failure, HostRefusal } from '@ferry/schemas/refusal'
import type { Versions } from '@ferry/schemas/versions'
import type { Dial } from './dial.ts'
import type { Image } from './transfer/image.ts'

/**
 * What every hypervisor must offer, with one contract suite that all of them pass (`test/contract/driver.ts`).
 *
 * Promises:
 * - D1 A repeated call gives the answer of the first: each may be called again by an agent that was killed after it.
 * - D2 Guests live without the driver: `close`, or the death of its process, changes nothing about any guest.
 * - D3 `inspect` reads the world and remembers nothing.
 * - D4 Only `start`, `activate` and `resume` let vCPUs run, and only `release` and `clear` end a copy. (A hypervisor
 *   whose stream breaks lets its guest run on at the source by itself; the end frame makes that harmless.)
 * - D5 `perform` leaves the guest paused and whole at the source, or running there and throws `CopyFailed`. Where it made
 *   an offer that was taken, the guest cannot run there any more, or does and it throws that.
 * - D6 `clear` ends only a copy that never ran.
 */
export type Driver = {
  readonly hypervisor: Hypervisor
  /** Which versions of its definitions and cookies it reads and writes; absent: the first. */
  readonly definitions?: Versions
  readonly inspect: () => Promise<GuestReport[]>
  /** Starts a guest from this host's own definition. */
  readonly start: (vm: string) => Promise<Begun>
  /** Whether disks can travel with their guest, where a policy wants that. */
  readonly copiesDisks?: true
  /** Whether its hypervisors can move an image by themselves, where a policy wants that. */
  readonly sendsDirectly?: true
  /** Whether a guest can be started at the target before all of it is there, where a policy wants that. */
  readonly copiesAfterwards?: true
  /** May it leave, and what must the target know? Changes nothing. */
  readonly begin: (vm: string, leave?: Leave) => Promise<Begun>
  /** What `begin` would refuse running guests for, by name; where asking does not disturb the hypervisor, or wait for it. */
  readonly foresee?: (vms: readonly string[]) => Promise<ReadonlyMap<string, HostRefusal>>
  /** Makes the receiving guest, from the definition that `begin` gave. `undefined`: it is there, with nothing to say. */
  readonly prepare: (landing: Landing) => Promise<HostRefusal | Prepared | undefined>
  readonly perform: (vm: string, order: PerformOrder) => Promise<SentByHypervisor>
  readonly receive: (vm: string, order: ReceiveOrder) => Promise<LoadedByHypervisor>
  /**
   * Of a source that was killed behind an offer that was taken, and before it said what came of that: what came of it.
   * Resolves as `perform` would have; only drivers that copy afterwards are asked.
   */
  readonly goOn?: (vm: string, signal: AbortSignal) => Promise<WentOn>
  /**
   * Resolves when it runs and all of it is there.
   *
   * @throws {NeverStarted} only when this very call knows that it sent no start (rule 6).
   */
  readonly activate: (vm: string, rest?: RestOrder) => Promise<Running>
  /** Ends the source's copy. */
  readonly release: (vm: string) => Promise<void>
  /**
   * Makes the guest run on at the source, whatever became of the copying; unless somebody else has paused it, where a
   * hypervisor tells who did. `undefined`: there is no guest any more.
   */
  readonly resume: (vm: string) => Promise<Resumed | undefined>
  readonly clear: (vm: string) => Promise<void>
  /** Called when a guest came, went, paused or ran on by itself. */
  readonly onChange: (listener: () => void) => void
  /** Lets go of all guests, which stay as they are. */
  readonly close: () => Promise<void>
}

/** What it takes to move an image in or out: enough for a process that does nothing else. */
export type Moves = Pick<
  Driver,
  'inspect' | 'perform' | 'goOn' | 'receive' | 'activate' | 'release' | 'resume' | 'clear' | 'close'
> & {
  /** What can be done before there is anything to move: a guest that is paused would wait for it. */
  readonly getReady?: () => Promise<void>
}

/** What a host can run. */
export type Hypervisor = Pick<
  DataOf<'HostReported'>,
  | 'hypervisor'
  | 'hypervisorVersion'
  | 'cpu'
  | 'machines'
  | 'cpuModels'
  | 'accelerators'
  | 'memoryBytes'
>

export type Leave = {
  /** The version that the definition is written in; absent: the first. */
  readonly definitionVersion?: number
  /** Disks that are not shared travel with their guest; only drivers that can do that are asked for it. */
  readonly copyDisks?: boolean
  /** The image takes so many connections between the hypervisors; only drivers that can do that are asked for it. */
  readonly directConnections?: number
  /** It is to be started before all of it is there; only drivers that can do that are asked for it. */
  readonly isPostCopy?: boolean
}

/** The definition is text that only a driver of the same kind reads. */
export type Begun =
  | { readonly needs: GuestNeeds; readonly definition: string }
  | { readonly refusal: HostRefusal }

export type Landing = {
  readonly vm: string
  readonly needs: GuestNeeds
  readonly definition: string
  /** Absent: the first. */
  readonly definitionVersion?: number
  /** Marks the copy, so that a later attempt's is not taken for this one's. */
  readonly migration: string
  readonly attempt: number
}

/** What the target's hypervisor tells the source's: text that only a driver of the same kind reads. */
export type Prepared = { readonly cookie: string }

export type PerformOrder = {
  readonly dial: Dial
  /** What `prepare` said on the target, if it said something. */
  readonly cookie?: string
  /** Sends the image until its end. Not called for one that goes directly. */
  readonly send: (image: Image) => Promise<void>
  /** Asked at the last moment, with the guest just paused. It throws `CopyFailed`: the guest must run on at once (rule 5). */
  readonly gate: () => Promise<void>
  readonly paused: (at: number) => void
  /** Absent: the guest goes when all of it has gone. */
  readonly postCopy?: PostCopy
  readonly round: (progress: CopyProgress) => void
  readonly progress: (progress: CopyProgress) => void
  /** Stop copying; what then becomes of the guest, `resume` settles. */
  readonly signal: AbortSignal
}

/**
 * Post-copy, from the source's side. It may begin when the memory has been sent once and `afterMs` have passed; until the
 * verdict the guest stands paused and whole, and nothing of it depends on the target.
 */
export type PostCopy = {
  readonly afterMs: number
  /** Whether the log has been heard of late: a guest that is paused waits for it. */
  readonly isLogHeard: () => boolean
  /**
   * The guest has been paused, and the target may commit. Resolves when it has.
   *
   * @throws {CopyFailed} when it will not: the guest must run on. Anything else: nobody knows yet.
   */
  readonly offer: (sent: { readonly pausedAt: number; readonly bytes: number }) => Promise<void>
}

export type SentByHypervisor = {
  readonly pausedAt: number
  readonly gatePassedAt: number
  readonly sentAt: number
  readonly rounds: number
  /** What went directly, by the hypervisor's own count; absent: the image was sent. */
  readonly directBytes?: number
}

export type ReceiveOrder = {
  /** Writes the image into the hypervisor; resolves when its end frame has been checked. */
  readonly fill: (hypervisor: Writable) => Promise<void>
  /** Of an image that comes directly: resolves when its source says, on record, that all of it is out. */
  readonly told: () => Promise<void>
  readonly signal: AbortSignal
}

export type WentOn = Pick<SentByHypervisor, 'rounds'> & { readonly directBytes: number }

/** `isBroken`: what it lacks does not come any more. */
export type Fetching = { readonly runningAt?: number; readonly isBroken: boolean }

/** Only drivers that copy afterwards wait for a rest. */
export type RestOrder = {
  /** Is told that it runs, and lacks what is still coming. */
  readonly fetching: (news: Fetching) => void
  /** Nobody waits for it any more; what was started goes on. */
  readonly signal: AbortSignal
}

/** When its vCPUs ran first; absent where another process started it. */
export type Running = { readonly runningAt?: number }

export type LoadedByHypervisor = { readonly loadedAt: number }

export type Resumed = {
  readonly wasPaused: boolean
  readonly runningAt: number
  /** Somebody else has paused it, and wants it so. */
  readonly leftPaused?: true
}

/** The copy did not arrive: an expected answer of `perform` and `receive`, thrown because streams are involved. */
export class CopyFailed extends Error {
  override readonly name = 'CopyFailed'
  readonly failure: Failure

  constructor(failure: Failure, options?: ErrorOptions) {
    super(`the copy failed: ${failure.type}`, options)
    this.failure = failure
  }
}

/** The guest was not started, and never had been. */
export class NeverStarted extends Error {
  override readonly name = 'NeverStarted'
  readonly failure: Failure

  constructor(failure: Failure, options?: ErrorOptions) {
    super(`the guest was not started: ${failure.type}`, options)
    this.failure = failure
  }
}

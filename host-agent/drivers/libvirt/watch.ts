import type { Clock } from '@ferry/events/clock'
import type { CopyProgress } from '@ferry/schemas/policy'
import { CopyFailed } from '../../driver.ts'
import type { PerformOrder } from '../../driver.ts'
import { byOtherHand, watchMonitor } from './other-hand.ts'
import { procedures } from './procedures.ts'
import type { Domain, Parameter } from './procedures.ts'
import { LibvirtError } from './rpc.ts'
import type { Libvirt } from './rpc.ts'
import { Change, DomainState, StoppedBy } from './words.ts'

export type Following = Awaited<ReturnType<typeof watch>>

const SAMPLE_MS = 250
const ROUND_MS = 50

/**
 * Follows libvirt's events to the pause, works the gate, and asks how far it is meanwhile. What somebody else does to the
 * guest is noticed here, and ends the copy.
 */
export async function watch(libvirt: Libvirt, domain: Domain, order: PerformOrder, clock: Clock) {
  let pausedAt = 0
  let gatePassedAt = 0
  let rounds = 0
  let isOver = false
  let isPausedByHand = false
  let isPausedByUs = false
  let refusal: Error | undefined
  let paused = () => {}
  let pass = () => {}
  let shut: (error: Error) => void = () => {}
  let tellStopped = () => {}
  const stopped = new Promise<void>((resolve) => {
    tellStopped = resolve
  })
  const gatePassed = new Promise<void>((resolve, reject) => {
    pass = resolve
    shut = reject
  })
  gatePassed.catch(() => {})
  let refused = () => {}
  const refuse = (error: unknown) => {
    refusal ??= error instanceof Error ? error : new Error(String(error))
    shut(refusal)
    refused()
  }
  const tell = async (listener: (progress: CopyProgress) => void) => {
    const { numbers } = await libvirt.call(procedures.jobNumbers, { domain, flags: 0 })
    const progress = progressOf(numbers)
    if (progress !== undefined && !isOver) listener(progress)
  }
  const isPaused = () => {
    if (pausedAt !== 0 || isPausedByUs) return
    pausedAt = clock.now()
    order.paused(pausedAt)
    paused()
    order.gate().then(() => {
      gatePassedAt = clock.now()
      pass()
    }, refuse)
  }
  const isByHand = () => {
    if (isPausedByUs) return
    isPausedByHand = true
    refuse(byOtherHand('somebody else has paused it'))
  }
  let failed = () => {}
  let tellBegun = () => {}
  let isBegun = false
  let forgetRound = () => {}
  const [forgetHand] = await Promise.all([
    watchMonitor(libvirt, domain, order, clock, {
      isByHand,
      hasFailed: () => failed(),
      isPausedByUs: () => isPausedByUs,
    }),
    libvirt.on('lifecycle', ({ domain: whose, change, detail }) => {
      if (!whose.uuid.equals(domain.uuid)) return
      if (change === Change.suspended) isPaused()
      if (change !== Change.stopped) return
      refuse(whyStopped(domain.name, detail))
      tellStopped()
    }),
    libvirt.on('round', (event) => {
      if (!event.domain.uuid.equals(domain.uuid)) return
      rounds = Math.max(rounds, event.iteration)
      if (!isBegun) tellBegun()
      isBegun = true
      // The last round is soon over, and with the guest paused libvirt has better things to do than to answer questions.
      forgetRound()
      forgetRound = clock.after(event.iteration === 1 ? 0 : ROUND_MS, () => {
        if (pausedAt === 0 && !isPausedByUs) tell(order.round).catch(() => {})
      })
    }),
  ])
  const look = async () => {
    if (pausedAt === 0 && !isPausedByUs) await tell(order.progress)
    // An event may be lost, and QEMU would wait for ever.
    const { state } = await libvirt.call(procedures.state, { domain, flags: 0 })
    if (state === DomainState.paused) isPaused()
  }
  const sampling = new AbortController()
  const sample = async () => {
    for (;;) {
      await clock.sleep(SAMPLE_MS, sampling.signal)
      try {
        await look()
      } catch (error) {
        // What libvirt itself has against it, the call that moves the guest will say.
        if (!(error instanceof LibvirtError)) throw error
      }
    }
  }
  return {
    gatePassed,
    /** It has ended, and why is known. */
    stopped,
    refuse,
    refusal: () => refusal,
    isPausedByHand: () => isPausedByHand,
    /** Also behind the gate. */
    onRefusal: (listener: () => void) => {
      refused = listener
      if (refusal !== undefined) listener()
    },
    /** QEMU has given up, and may wait for its way back to be closed before it lets the guest run on. */
    onFailure: (listener: () => void) => {
      failed = listener
    },
    /** QEMU has begun to copy. */
    onBegun: (listener: () => void) => {
      tellBegun = listener
      if (isBegun) listener()
    },
    onPause: (listener: () => void) => {
      paused = listener
      if (pausedAt !== 0) listener()
    },
    times: () => ({ pausedAt, gatePassedAt, rounds }),
    /** From now on a pause is ours. @returns that QEMU was not faster. */
    pauses: (): boolean => {
      isPausedByUs = pausedAt === 0
      return isPausedByUs
    },
    /** It was paused by us then, and has been let go now. */
    letGo: (at: number) => {
      pausedAt = at
      gatePassedAt = clock.now()
      pass()
    },
    /** A libvirtd that has stopped answering is noticed here: the call that moves the guest has no limit of its own. */
    begin: (lost: () => void) =>
      void sample().catch((error: unknown) => {
        if (isOver) return
        refuse(error)
        lost()
      }),
    forget: () => {
      isOver = true
      forgetRound()
      forgetHand()
      sampling.abort()
    },
  }
}

const whyStopped = (vm: string, detail: number): CopyFailed => {
  if (detail === StoppedBy.user) return byOtherHand('somebody else has ended it')
  if (detail === StoppedBy.migration) return byOtherHand('somebody else has moved it')
  return new CopyFailed({ type: 'GuestGone', vm })
}

function progressOf(numbers: readonly Parameter[]): CopyProgress | undefined {
  const all = new Map(numbers.map(({ field, value }) => [field, Number(value)]))
  const number = (field: string) => Math.max(0, all.get(field) ?? 0)
  if (!all.has('data_total')) return undefined
  return {
    round: number('memory_iteration'),
    // Memory, and disks where they travel.
    transferredBytes: number('data_processed'),
    remainingBytes: number('data_remaining'),
    totalBytes: number('data_total'),
    bandwidthBytesPerSecond: number('memory_bps') + number('disk_bps'),
    dirtyBytesPerSecond: number('memory_dirty_rate') * number('memory_page_size'),
    expectedDowntimeMs: number('downtime'),
    throttlePercent: number('auto_converge_throttle'),
  }
}

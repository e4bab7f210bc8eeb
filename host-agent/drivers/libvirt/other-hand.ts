import { rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { CopyFailed } from '../../driver.ts'
import type { PerformOrder } from '../../driver.ts'
import { unlessGone } from './daemon.ts'
import type { Job } from './daemon.ts'
import { isHeld } from './holder.ts'
import { procedures } from './procedures.ts'
import type { Domain } from './procedures.ts'
import type { Libvirt } from './rpc.ts'
import { DomainState } from './words.ts'

/**
 * Operators have libvirt at hand as well, and may pause, end or move a guest that Ferry is moving. That is noticed and
 * said; it is never fought over. So it must be known whether what libvirtd is at is of Ferry's doing: that stands on disk
 * before libvirtd is told, and until nothing of it is under way any more.
 */
const PERFORMS = 'performs'

export const own = (folder: string): Promise<void> =>
  writeFile(join(folder, PERFORMS), '', { mode: 0o600 })

export const isOurs = async (folder: string): Promise<boolean> =>
  (await isHeld(folder)) ||
  stat(join(folder, PERFORMS)).then(
    () => true,
    () => false,
  )

export const disown = (folder: string): Promise<void> => rm(join(folder, PERFORMS), { force: true })

/** What else libvirtd may be at, in words for the log. */
export const whatElse: Readonly<Record<Job, string>> = {
  migration: 'somebody else is moving it',
  other: 'somebody else has libvirtd do something with it that takes long (virsh domjobinfo)',
}

export const byOtherHand = (message: string): CopyFailed =>
  new CopyFailed({ type: 'HypervisorFailed', message, otherHand: true })

const TELL_MS = 1000

/** Of a copy that is gone libvirt says a little later who ended it. @param told resolves when it has. */
export const hearWhy = (told: Promise<void>, clock: Clock): Promise<void> =>
  // A libvirtd that is gone itself says nothing: what is known already must do.
  within(clock, TELL_MS, 'libvirt saying who ended a guest', told).catch(() => {})

/** The same for one that may be gone. */
export async function toldWhy(
  libvirt: Libvirt,
  domain: Domain,
  told: Promise<void>,
  clock: Clock,
): Promise<void> {
  const ask = () => libvirt.call(procedures.state, { domain, flags: 0 })
  const isGone = await unlessGone(ask).then(
    (now) => now === undefined || now.state === DomainState.shutOff,
    () => false,
  )
  if (isGone) await hearWhy(told, clock)
}

/** More than it takes to be told who ended a guest. */
const LET_KNOW_MS = 2000

/**
 * When an image that goes directly is broken off, both hosts find that out at once, and as a rule one of them knows why:
 * that one is to be heard first. The other waits with its word; meanwhile the guest runs.
 */
export async function behindWhoKnows(
  error: unknown,
  clock: Clock,
  signal: AbortSignal,
): Promise<never> {
  const failure = error instanceof CopyFailed ? error.failure : undefined
  const knowsWhy = failure?.type !== 'HypervisorFailed' || failure.otherHand === true
  if (!knowsWhy) await clock.sleep(LET_KNOW_MS, signal)
  throw error
}

/** What a cookie says of a QEMU that pauses its guest, says so, and waits before it switches over. */
export const WAITS = "'pause-before-switchover'"

/** From one to the other QEMU takes a few milliseconds, and as long as its disks take to be flushed. */
const SWITCH_MS = 250

/** QEMU's word for a guest that a person has paused; one that is switched over is `finish-migrate`. */
const PAUSED = /"status": ?"paused"/

/**
 * A guest that somebody pauses while it is being sent looks to libvirt as if its migration had paused it. QEMU knows
 * better: for the switchover it stops the guest, brings what is on its way onto its disks, and says so ("pre-switchover").
 * When that does not come at once QEMU is asked whose pause it is: a slow disk is not somebody's hand. And a QEMU that gives
 * up with the guest paused says so too, and then waits for its way back to be closed.
 *
 * @returns how to stop that.
 */
export async function watchMonitor(
  libvirt: Libvirt,
  domain: Domain,
  { cookie = '' }: Pick<PerformOrder, 'cookie'>,
  clock: Clock,
  tell: {
    readonly isByHand: () => void
    readonly hasFailed: () => void
    readonly isPausedByUs: () => boolean
  },
): Promise<() => void> {
  // A QEMU that cannot wait there does not say it either.
  const canTell = cookie.includes(WAITS)
  let stop: { readonly at: number; isAsked: boolean } | undefined
  let forget = () => {}
  const ask = async () => {
    const command = JSON.stringify({ execute: 'query-status' })
    const { answer } = await libvirt.call(procedures.tellMonitor, { domain, command, flags: 0 })
    if (PAUSED.test(answer)) tell.isByHand()
  }
  await libvirt.on('monitor', ({ domain: whose, name, seconds, microseconds, details = '' }) => {
    if (!whose.uuid.equals(domain.uuid)) return
    if (name === 'MIGRATION' && details.includes('"failed"')) tell.hasFailed()
    if (!canTell) return
    const at = Number(seconds) * 1000 + microseconds / 1000
    const isSwitching = name === 'MIGRATION' && details.includes('"pre-switchover"')
    if (name !== 'STOP' && name !== 'RESUME' && !isSwitching) return
    forget()
    if (name === 'STOP') {
      const mine = { at, isAsked: false }
      stop = mine
      forget = clock.after(SWITCH_MS, () => {
        if (tell.isPausedByUs()) return
        mine.isAsked = true
        // Who cannot be asked has not been paused by anybody, as far as is known.
        ask().catch(() => {})
      })
      return
    }
    // Both came late, one behind the other: by QEMU's own times the guest had stood still before.
    if (isSwitching && stop?.isAsked === false && at - stop.at > SWITCH_MS) tell.isByHand()
    stop = undefined
  })
  return () => forget()
}

import type { Clock } from '@ferry/events/clock'
import type { PostCopy } from '../../driver.ts'
import { procedures } from './procedures.ts'
import type { Domain } from './procedures.ts'
import { LibvirtError } from './rpc.ts'
import type { Libvirt } from './rpc.ts'
import type { Following } from './watch.ts'

/**
 * Post-copy, with the verdict in front of it. libvirt would go over to it by itself, and from then on the guest can run
 * nowhere but at the target; so the guest is paused first, as libvirt allows in any migration, while QEMU goes on copying:
 *
 *     Perform ──► rounds ──► suspend ──► offer ──► Committed ──► start post-copy ──► Perform's reply ──► Performed
 *                               │                     │                                  it cannot run here any more
 *                            whole                 Cancelled: aborted, it runs on
 *
 * Whoever is killed behind the offer stops nothing: a guest that stands still makes no memory dirty, and QEMU gets to its
 * end without post-copy.
 */
export async function goEarly(the: {
  readonly libvirt: Libvirt
  readonly domain: Domain
  readonly following: Following
  readonly postCopy: PostCopy
  readonly clock: Clock
  readonly performed: Promise<unknown>
  /** Copied to its end, as any other. */
  readonly through: Promise<unknown>
  /** A guest that is fenced home must not wait for a copy that gets nowhere. */
  readonly signal: AbortSignal
}): Promise<void> {
  const { libvirt, domain, following, postCopy, clock, performed, through, signal } = the
  const began = clock.elapsed()
  const ended = through.then(
    () => true,
    () => true,
  )
  const mayGo = () =>
    following.times().rounds > 1 &&
    clock.elapsed() - began >= postCopy.afterMs &&
    postCopy.isLogHeard()
  while (!mayGo()) {
    const hasEnded = await Promise.race([ended, clock.sleep(LOOK_MS).then(() => false)])
    if (hasEnded) return void (await through)
  }

  const { numbers } = await libvirt.call(procedures.jobNumbers, { domain, flags: 0 })
  const bytes = Number(numbers.find(({ field }) => field === 'data_processed')?.value ?? 0)
  // QEMU may have been faster, and have got to its end.
  if (!following.pauses()) return void (await through)
  await libvirt.call(procedures.suspend, { domain })
  const pausedAt = clock.now()
  await postCopy.offer({ pausedAt, bytes })
  await startPostCopy(libvirt, domain)
  following.letGo(pausedAt)
  const left = new AbortController()
  try {
    await Promise.race([performed, whenAborted(signal, left.signal)])
  } finally {
    left.abort()
  }
}

/** Rejects when it is aborted, and is forgotten with `until`. */
const whenAborted = (signal: AbortSignal, until: AbortSignal): Promise<never> =>
  new Promise((_, reject) => {
    const tell = () => reject(signal.reason)
    if (signal.aborted) tell()
    signal.addEventListener('abort', tell, { once: true, signal: until })
  })

const LOOK_MS = 50

/** One that has got to its end meanwhile needs none: libvirt's answer to Perform says how it went. */
export async function startPostCopy(libvirt: Libvirt, domain: Domain): Promise<void> {
  try {
    await libvirt.call(procedures.startPostCopy, { domain, flags: 0 })
  } catch (error) {
    if (!(error instanceof LibvirtError)) throw error
  }
}

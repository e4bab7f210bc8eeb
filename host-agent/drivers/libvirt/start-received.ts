import type { RestOrder, Running } from '../../driver.ts'
import type { Daemon, Looked } from './daemon.ts'
import { procedures } from './procedures.ts'
import { Change, MigrateFlag } from './words.ts'

/**
 * Post-copy, from the target's side: libvirt's Finish starts the guest as soon as its devices are there, and ends when its
 * memory is. It goes on in libvirtd whoever waits for it, so a process that comes later finds the guest running, and waits.
 */
export async function startReceived(
  copy: Looked,
  daemon: Daemon,
  rest: RestOrder = { fetching: () => {}, signal: new AbortController().signal },
): Promise<Running> {
  const { fetching, signal } = rest
  const { clock } = daemon
  const { domain } = copy
  if (copy.state === 'running') return awaitRest(copy, daemon, rest)
  if (copy.state !== 'receiving') throw new Error(`${domain.name} has run, and is ${copy.state}`)
  const libvirt = await daemon.fresh()
  signal.addEventListener('abort', libvirt.close, { once: true })
  try {
    signal.throwIfAborted()
    let runningAt: number | undefined
    await libvirt.on('lifecycle', (event) => {
      if (event.change !== Change.resumed || !event.domain.uuid.equals(domain.uuid)) return
      if (runningAt !== undefined) return
      runningAt = clock.now()
      if (event.detail === RESUMED_BY_POST_COPY) fetching({ runningAt, isBroken: false })
    })
    const asked = {
      parameters: [{ field: 'destination_name', is: 'string', value: domain.name } as const],
      cookie: '',
      flags: MigrateFlag.live | MigrateFlag.postCopy,
      isCancelled: 0,
    }
    // It takes as long as what is missing; that it does not come any more libvirt says.
    await libvirt.call(procedures.finish, asked, 'unlimited')
    return runningAt === undefined ? {} : { runningAt }
  } catch (error) {
    signal.throwIfAborted()
    // An operator may have the rest sent anew, and then it is fetched after all.
    const now = await daemon.look(domain.name)
    if (now?.rest === undefined) throw error
    return await awaitRest(copy, daemon, rest)
  } finally {
    signal.removeEventListener('abort', libvirt.close)
    libvirt.close()
  }
}

/** Started already; it says when that changes what is to be said. */
async function awaitRest(
  { domain }: Looked,
  daemon: Daemon,
  { fetching, signal }: RestOrder,
): Promise<Running> {
  let told: boolean | undefined
  for (;;) {
    const now = await daemon.look(domain.name)
    if (now === undefined) throw new Error(`${domain.name} has run, and is gone`)
    if (now.state === 'running' && now.rest === undefined) return {}
    const isBroken = now.rest === 'broken'
    if (isBroken !== told) fetching({ isBroken })
    told = isBroken
    await daemon.clock.sleep(LOOK_AGAIN_MS, signal)
  }
}

/** How libvirt says that it runs, and lacks a part of its memory. */
const RESUMED_BY_POST_COPY = 3
const LOOK_AGAIN_MS = 500

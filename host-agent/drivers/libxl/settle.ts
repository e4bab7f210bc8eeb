import { stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { LibvirtError } from '../libvirt/rpc.ts'
import { procedures } from '../libvirt/procedures.ts'
import type { Domain } from '../libvirt/procedures.ts'
import { DomainState, MigrateFlag } from '../libvirt/words.ts'
import { listenOnPort } from '../one-visitor.ts'
import { hangUpOn } from './hang-up.ts'
import type { LibxlHost } from './host.ts'

/** Stands in a guest's folder once Perform has ended well: from then on libvirtd only waits for Confirm. */
const THROUGH = 'through'

export const isThrough = (folder: string): Promise<boolean> =>
  stat(join(folder, THROUGH)).then(
    () => true,
    () => false,
  )

export const markThrough = (folder: string): Promise<void> =>
  writeFile(join(folder, THROUGH), '', { mode: 0o600 })

/** How long a Perform may still be at work whose image nobody takes any more. */
const PATIENCE_MS = 10_000
const SETTLED_MS = 60_000
const LOOK_AGAIN_MS = 200

/**
 * Lets a guest run on that was to be sent, whatever became of that, and leaves libvirtd without a job on it: nothing could
 * be done with the guest otherwise, and libvirtd never ends that job by itself.
 *
 * @param patienceMs how long its Perform may still be at work; none, where that is known to have ended.
 */
export async function settle(
  domain: Domain,
  host: LibxlHost,
  folder: string,
  patienceMs = PATIENCE_MS,
): Promise<void> {
  const { clock } = host
  const began = clock.elapsed()
  for (;;) {
    const [isBusy, now] = [await host.hasJob(domain), await host.inXen(domain.name)]
    const waitedMs = clock.elapsed() - began
    const isOver = waitedMs >= patienceMs || (await isThrough(folder))
    if (now === undefined || now.state === 'ended') return
    if (now.state !== 'suspended' && !isBusy) return
    if (waitedMs > SETTLED_MS) throw new Error(`libvirtd does not let ${domain.name} run on`)
    if (now.state === 'suspended' && !isBusy) await wake(domain, host)
    else if (now.state === 'suspended' && isOver) await confirmCancelled(domain, host)
    else if (isOver) await sendToNobody(domain, host)
    else await clock.sleep(LOOK_AGAIN_MS)
  }
}

/** libvirtd has let go of it, and Xen has not: its Perform failed behind the pause, or it was restarted. */
async function wake(domain: Domain, host: LibxlHost): Promise<void> {
  const libvirt = await host.daemon.libvirt()
  const { state } = await libvirt.call(procedures.state, { domain, flags: 0 })
  if (state === DomainState.asleep) return libvirt.call(procedures.wakeUp, { domain, flags: 0 })
  await libvirt.call(procedures.begin, { domain, parameters: [], flags: MigrateFlag.live })
  await confirmCancelled(domain, host)
}

/** Only for a guest that is suspended: of any other libvirtd would believe from then on that it is paused. */
async function confirmCancelled(domain: Domain, { daemon }: LibxlHost): Promise<void> {
  const libvirt = await daemon.libvirt()
  await libvirt.call(procedures.confirm, {
    domain,
    parameters: [],
    cookie: '',
    flags: MigrateFlag.live,
    isCancelled: 1,
  })
}

/** A Perform whose image nobody takes fails before the guest is suspended, and that ends the job of a Begin. */
async function sendToNobody(domain: Domain, { daemon }: LibxlHost): Promise<void> {
  const libvirt = await daemon.libvirt()
  const door = await listenOnPort()
  void door.socket.then((socket) =>
    hangUpOn(
      socket.on('error', () => {}),
      () => false,
    ),
  )
  try {
    await libvirt.call(procedures.perform, {
      domain,
      otherUri: undefined,
      parameters: [{ field: 'migrate_uri', is: 'string', value: uriOf(door.port) }],
      cookie: '',
      flags: MigrateFlag.live,
    })
  } catch (error) {
    if (!(error instanceof LibvirtError)) throw error
  } finally {
    door.close()
  }
}

export const uriOf = (port: number): string => `tcp://127.0.0.1:${port}`

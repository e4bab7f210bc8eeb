import { within } from '@ferry/events/clock'
import type { PerformOrder, SentByHypervisor } from '../../driver.ts'
import { disown, own } from '../libvirt/other-hand.ts'
import { procedures } from '../libvirt/procedures.ts'
import type { Domain } from '../libvirt/procedures.ts'
import { LibvirtError } from '../libvirt/rpc.ts'
import { MigrateFlag } from '../libvirt/words.ts'
import { listenOnPort } from '../one-visitor.ts'
import { GO_MS, failed, leaving } from '../xen/perform.ts'
import type { Leaver } from '../xen/perform.ts'
import { streamVersionIn } from './cookie.ts'
import { hangUpOn } from './hang-up.ts'
import type { LibxlHost } from './host.ts'
import { markThrough, settle, uriOf } from './settle.ts'

/**
 * The source's half. libvirtd connects to this process, and lets libxl send there:
 *
 *     Begin, Perform ──► rounds 1, 2, ... ──► suspended ──► the image's end ──► Perform's reply (suspended and whole)
 *                                                │
 *                                               gate: where it stays shut the guest is resumed, by Confirm
 *
 * libxl asks for no answer, so Perform may have ended before the gate was passed: what was sent is no whole image for the
 * target before the end frame has come, and until Confirm the source's copy can run on.
 */
export async function perform(
  { domain, inXen, memoryBytes, disks }: Leaving,
  order: PerformOrder,
  host: LibxlHost,
  folder: string,
): Promise<SentByHypervisor> {
  const { clock, daemon, xl } = host
  const { signal } = order
  const flags = MigrateFlag.live
  signal.throwIfAborted()
  await host.notes.folder(domain.name)
  await own(folder)
  const libvirt = await daemon.fresh()
  const door = await listenOnPort()
  let isBegun = false
  let isAtWork = false
  try {
    const { cookie } = await libvirt.call(procedures.begin, { domain, parameters: [], flags })
    isBegun = true
    checkStream(streamVersionIn(cookie), order.cookie)
    let complaint = ''
    isAtWork = true
    const ended = libvirt
      .call(
        procedures.perform,
        {
          domain,
          otherUri: undefined,
          parameters: [{ field: 'migrate_uri', is: 'string', value: uriOf(door.port) }],
          cookie,
          flags,
        },
        'unlimited',
      )
      .then(
        () => 0,
        (error: unknown) => {
          complaint = error instanceof Error ? error.message : String(error)
          return 'failed'
        },
      )
      .finally(() => {
        isAtWork = false
      })
    const sentNothing = ended.then(() => {
      throw failed(complaint)
    })
    const image = await within(
      clock,
      CONNECT_MS,
      'libvirtd connecting with the image',
      Promise.race([door.socket, sentNothing]),
    )
    image.on('error', () => {})
    let isPaused = false
    const paused = (at: number) => {
      isPaused = true
      order.paused(at)
    }
    return await leaving(inXen, { ...order, paused }, xl, {
      memoryBytes,
      disks,
      began: { ended, complaint: () => complaint, kill: async () => void image.destroy() },
      from: 'libxl',
      image,
      hangUp: () => hangUpOn(image, () => isPaused),
      begun: () => {},
      through: async () => {
        const status = await within(clock, GO_MS, 'the end of Perform', ended)
        if (status !== 0) throw failed(complaint)
        await markThrough(folder)
      },
    })
  } catch (error) {
    door.close()
    // A libvirtd that is gone itself cannot be told; what then becomes of the guest, `resume` settles.
    if (isBegun)
      await settle(domain, host, folder, isAtWork ? undefined : 0).then(
        () => disown(folder),
        () => {},
      )
    else if (error instanceof LibvirtError) await disown(folder)
    throw error instanceof LibvirtError ? failed(error.message, error) : error
  } finally {
    door.close()
    libvirt.close()
  }
}

type Leaving = Omit<Leaver, 'domain'> & {
  readonly domain: Domain
  readonly inXen: Leaver['domain']
}

const CONNECT_MS = 60_000

/** @param readable up to which version the target reads, as it has said. */
function checkStream(version: number, readable: string | undefined): void {
  if (readable === undefined || version <= Number(readable)) return
  throw failed(
    `libvirt sends version ${version} of Xen's stream, and the target reads none above ${readable}`,
  )
}

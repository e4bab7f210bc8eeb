import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createConnection } from 'node:net'
import type { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { within } from '@ferry/events/clock'
import { CopyFailed } from '../../driver.ts'
import type { LoadedByHypervisor, ReceiveOrder } from '../../driver.ts'
import { feed } from '../feed.ts'
import { tellNbd } from '../nbd/tell.ts'
import type { Daemon, Looked } from './daemon.ts'
import { cookieOfDisks } from './domain-xml.ts'
import { letGo } from './holder.ts'
import { diskSocket, imageSocket } from './images.ts'
import { apart } from './one-stream.ts'
import { byOtherHand, hearWhy, toldWhy } from './other-hand.ts'
import { procedures } from './procedures.ts'
import type { Domain } from './procedures.ts'
import type { Libvirt } from './rpc.ts'
import { Change, MigrateFlag, StoppedBy } from './words.ts'

/** The target's half: QEMU has listened since `prepare`, and libvirt's Finish, which was asked for then, ends when all is loaded. */
export async function receive(
  copy: Looked,
  order: ReceiveOrder,
  daemon: Daemon,
  { folder, images }: { readonly folder: string; readonly images: string },
): Promise<LoadedByHypervisor> {
  const { clock } = daemon
  const { domain: expected } = copy
  const { name: vm } = expected
  const bringsDisks = copy.mark?.bringsDisks === true
  const watching = await daemon.fresh()
  let hypervisor: Socket | undefined
  let front: Writable | undefined
  /** Also what waits for a disk, or for libvirtd's answer. */
  const stop = () => {
    hypervisor?.destroy()
    front?.destroy(new Error('broken off'))
    watching.close()
  }
  order.signal.addEventListener('abort', stop, { once: true })
  try {
    // QEMU takes one visitor: if another process has been it, nobody knows what it brought.
    const memory = (hypervisor = await visit(imageSocket(images, vm)))
    // Until the source comes nobody else listens, and a QEMU that ends must not take the agent with it.
    memory.on('error', () => {})
    // What it says on its way back was answered at the source.
    memory.resume()
    let wake = () => {}
    let isEndedByHand = false
    let tellStopped = () => {}
    const stopped = new Promise<void>((resolve) => {
      tellStopped = resolve
    })
    await watching.on('lifecycle', ({ domain, change, detail }) => {
      if (change === Change.stopped && domain.uuid.equals(expected.uuid)) {
        isEndedByHand = detail === StoppedBy.user
        tellStopped()
      }
      wake()
    })
    void watching.closed.then(() => memory.destroy(new Error('libvirtd ended')))
    memory.once('end', () => wake())
    order.signal.throwIfAborted()
    const whoseHand = () => {
      if (isEndedByHand)
        throw byOtherHand('somebody else has ended the copy that was to receive it')
    }
    const taking = feed(memory, {
      atEnd: () => void memory.end(),
      // A QEMU that has ended is told of by its socket first, and later by libvirt.
      beforeFailing: () => hearWhy(stopped, clock),
    })
    const tell = (name: string, sizeBytes: number) =>
      within(
        clock,
        OPEN_MS,
        'QEMU opening a disk',
        tellNbd(diskSocket(images, vm), name, sizeBytes),
      )
    const all = (front = bringsDisks ? apart(taking, tell) : taking)
    const fill = async () => {
      await order.fill(all)
      if (!bringsDisks) return
      // What was written to the disks must be there before anybody commits to it.
      await within(clock, FLUSH_MS, 'QEMU writing the disks', finished(all)).catch(failed)
      await askToFinish(watching, expected).catch(failed)
      await letGo(folder)
    }
    await fill().catch(async (error: unknown) => {
      all.destroy()
      order.signal.throwIfAborted()
      // QEMU must not take what came for the whole.
      memory.destroy()
      await toldWhy(watching, expected, stopped, clock)
      whoseHand()
      throw error
    })
    const loaded = async () => {
      for (;;) {
        order.signal.throwIfAborted()
        const woken = new Promise<void>((resolve) => {
          wake = resolve
        })
        const state = await daemon.stateNow(copy)
        if (state === 'loaded') return { loadedAt: clock.now() }
        if (state !== 'receiving') {
          await toldWhy(watching, expected, stopped, clock)
          whoseHand()
          throw new CopyFailed({
            type: 'HypervisorFailed',
            message: 'QEMU ended while it loaded the image',
          })
        }
        await Promise.race([woken, clock.sleep(LOOK_AGAIN_MS)])
      }
    }
    return await within(clock, LOAD_MS, 'QEMU loading the image', loaded())
  } finally {
    order.signal.removeEventListener('abort', stop)
    watching.close()
    hypervisor?.destroy()
  }
}

/**
 * libvirtd stops taking changes only if the source's cookie speaks of disks; else QEMU keeps its NBD server, and with it
 * the right to write, which the guest's own device then lacks at its next move. Whoever wrote it, libvirtd only checks
 * that this was not the target itself.
 */
const cookieWithDisks = ({ name, uuid }: Domain): string =>
  cookieOfDisks(name, uuid, { name: 'source', uuid: randomBytes(16) })

/** No more than to say hello. */
const OPEN_MS = 30_000

/** A slow disk may have much to write yet. */
const FLUSH_MS = 60_000

/** Without disks that was asked for by Prepare. With them libvirt would stop taking their changes. */
const askToFinish = (libvirt: Libvirt, domain: Domain) =>
  libvirt.call(
    procedures.finish,
    {
      parameters: [{ field: 'destination_name', is: 'string', value: domain.name }],
      cookie: cookieWithDisks(domain),
      flags: MigrateFlag.live | MigrateFlag.paused | MigrateFlag.nonSharedDisk,
      isCancelled: 0,
    },
    LOAD_MS,
  )

const failed = (cause: unknown): never => {
  const message = cause instanceof Error ? cause.message : String(cause)
  throw new CopyFailed({ type: 'HypervisorFailed', message }, { cause })
}

/** Once all bytes are in, loading the rest takes milliseconds; device states of large guests take seconds. */
const LOAD_MS = 60_000
const LOOK_AGAIN_MS = 100

async function visit(path: string): Promise<Socket> {
  const hypervisor = createConnection({ path, allowHalfOpen: true })
  try {
    await once(hypervisor, 'connect')
    return hypervisor
  } catch (cause) {
    throw new CopyFailed({ type: 'AgentRestarted' }, { cause })
  }
}

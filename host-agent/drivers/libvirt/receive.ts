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
import { behindWhoKnows, byOtherHand, hearWhy, toldWhy } from './other-hand.ts'
import { procedures } from './procedures.ts'
import type { Domain } from './procedures.ts'
import type { Libvirt } from './rpc.ts'
import { Change, MigrateFlag, StoppedBy } from './words.ts'

/**
 * The target's half: QEMU has listened since `prepare`, and libvirt's Finish, which was asked for then, ends when all is
 * loaded. Where disks come as well, Finish is asked for here, when all of them is there.
 */
export async function receive(
  copy: Looked,
  order: ReceiveOrder,
  daemon: Daemon,
  places: { readonly folder: string; readonly images: string },
): Promise<LoadedByHypervisor> {
  const watched = await watchCopy(copy, daemon, order.signal)
  try {
    return await (copy.mark?.comesDirectly === true
      ? awaitDirectly(copy, order, daemon, places, watched)
      : takeStream(copy, order, daemon, places, watched))
  } finally {
    watched.close()
  }
}

type Watched = Awaited<ReturnType<typeof watchCopy>>

/** Hears what becomes of a copy that is being received. */
async function watchCopy(copy: Looked, daemon: Daemon, signal: AbortSignal) {
  const { clock } = daemon
  const { domain: expected } = copy
  const libvirt = await daemon.fresh()
  let wake = () => {}
  let isEndedByHand = false
  let tellStopped = () => {}
  const stopped = new Promise<void>((resolve) => {
    tellStopped = resolve
  })
  await libvirt.on('lifecycle', ({ domain, change, detail }) => {
    if (change === Change.stopped && domain.uuid.equals(expected.uuid)) {
      isEndedByHand = detail === StoppedBy.user
      tellStopped()
    }
    wake()
  })
  const whoseHand = () => {
    if (isEndedByHand) throw byOtherHand('somebody else has ended the copy that was to receive it')
  }
  return {
    libvirt,
    /** It has ended, and why is known. */
    stopped,
    whoseHand,
    wake: () => wake(),
    loaded: async (lookAgainMs: number): Promise<LoadedByHypervisor> => {
      for (;;) {
        signal.throwIfAborted()
        const woken = new Promise<void>((resolve) => {
          wake = resolve
        })
        const state = await daemon.stateNow(copy)
        if (state === 'loaded') return { loadedAt: clock.now() }
        if (state !== 'receiving') {
          await toldWhy(libvirt, expected, stopped, clock)
          whoseHand()
          throw new CopyFailed({
            type: 'HypervisorFailed',
            message: 'QEMU ended while it loaded the image',
          })
        }
        await Promise.race([woken, clock.sleep(lookAgainMs)])
      }
    },
    close: libvirt.close,
  }
}

/** An image that comes through Ferry's stream goes into QEMU's socket. */
async function takeStream(
  { domain, mark }: Looked,
  order: ReceiveOrder,
  { clock }: Daemon,
  { folder, images }: { readonly folder: string; readonly images: string },
  { libvirt, stopped, whoseHand, wake, loaded }: Watched,
): Promise<LoadedByHypervisor> {
  const bringsDisks = mark?.bringsDisks === true
  let hypervisor: Socket | undefined
  let front: Writable | undefined
  /** Also what waits for a disk, or for libvirtd's answer. */
  const stop = () => {
    hypervisor?.destroy()
    front?.destroy(new Error('broken off'))
    libvirt.close()
  }
  order.signal.addEventListener('abort', stop, { once: true })
  try {
    // QEMU takes one visitor: if another process has been it, nobody knows what it brought.
    const memory = (hypervisor = await visit(imageSocket(images, domain.name)))
    // Until the source comes nobody else listens, and a QEMU that ends must not take the agent with it.
    memory.on('error', () => {})
    // What it says on its way back was answered at the source.
    memory.resume()
    void libvirt.closed.then(() => memory.destroy(new Error('libvirtd ended')))
    memory.once('end', wake)
    order.signal.throwIfAborted()
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
        tellNbd(diskSocket(images, domain.name), name, sizeBytes),
      )
    const all = (front = bringsDisks ? apart(taking, tell) : taking)
    const fill = async () => {
      await order.fill(all)
      if (!bringsDisks) return
      // What was written to the disks must be there before anybody commits to it.
      await within(clock, FLUSH_MS, 'QEMU writing the disks', finished(all)).catch(failed)
      await askToFinish(libvirt, domain).catch(failed)
      await letGo(folder)
    }
    await fill().catch(async (error: unknown) => {
      all.destroy()
      order.signal.throwIfAborted()
      // QEMU must not take what came for the whole.
      memory.destroy()
      await toldWhy(libvirt, domain, stopped, clock)
      whoseHand()
      throw error
    })
    return await within(clock, LOAD_MS, 'QEMU loading the image', loaded(LOOK_AGAIN_MS))
  } finally {
    order.signal.removeEventListener('abort', stop)
    hypervisor?.destroy()
  }
}

/**
 * One that comes from QEMU to QEMU is whole when QEMU has loaded it and its source says that this was all. It goes on
 * whoever waits for it; only one with disks waits for somebody to ask for Finish.
 */
async function awaitDirectly(
  { domain, mark, state }: Looked,
  order: ReceiveOrder,
  { clock }: Daemon,
  { folder }: { readonly folder: string },
  { libvirt, loaded }: Watched,
): Promise<LoadedByHypervisor> {
  const told = order.told()
  const arrived = async () => {
    const loading = loaded(LOOK_SELDOM_MS)
    if (mark?.isPostCopy === true) {
      // libvirt's Finish, which says that all is loaded, would start it.
      loading.catch(() => {})
      await Promise.race([told, loading])
      return { loadedAt: clock.now() }
    }
    if (mark?.bringsDisks === true && state !== 'loaded') {
      await Promise.race([told, loading])
      await askToFinish(libvirt, domain).catch(failed)
      await letGo(folder)
    }
    const it = await loading
    await within(clock, TOLD_MS, 'the source saying that this was all', told).catch(failed)
    return it
  }
  const gone = libvirt.closed.then(() => failed(new Error('libvirtd ended')))
  try {
    const [it] = await Promise.race([Promise.all([arrived(), told]), gone])
    return it
  } catch (error) {
    return behindWhoKnows(error, clock, order.signal)
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
  if (cause instanceof CopyFailed) throw cause
  const message = cause instanceof Error ? cause.message : String(cause)
  throw new CopyFailed({ type: 'HypervisorFailed', message }, { cause })
}

/** Once all bytes are in, loading the rest takes milliseconds; device states of large guests take seconds. */
const LOAD_MS = 60_000
const LOOK_AGAIN_MS = 100
/** Where it takes as long as an image: libvirt's events tell of it sooner. */
const LOOK_SELDOM_MS = 1000
/** QEMU has loaded the last of it, and its source is through at the same moment. */
const TOLD_MS = 30_000

async function visit(path: string): Promise<Socket> {
  const hypervisor = createConnection({ path, allowHalfOpen: true })
  try {
    await once(hypervisor, 'connect')
    return hypervisor
  } catch (cause) {
    throw new CopyFailed({ type: 'AgentRestarted' }, { cause })
  }
}

import { mkdir } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import type { Policy } from '@ferry/schemas/policy'
import { within } from '@ferry/events/clock'
import { CopyFailed } from '../../driver.ts'
import type { PerformOrder, SentByHypervisor } from '../../driver.ts'
import { imageFromSocket } from '../../transfer/image.ts'
import type { Image } from '../../transfer/image.ts'
import { listenFor } from '../one-visitor.ts'
import type { Daemon, Looked } from './daemon.ts'
import { bringing, clearTheWay, disksAsked, disksToSend, isInTheWay } from './disks.ts'
import { disksOut } from './disks-out.ts'
import type { DisksOut } from './disks-out.ts'
import { letGo } from './holder.ts'
import type { Held } from './holder.ts'
import { noteSent } from './image-files.ts'
import { diskDoor, openImages } from './images.ts'
import { own, toldWhy } from './other-hand.ts'
import { procedures } from './procedures.ts'
import type { Domain, Parameter } from './procedures.ts'
import type { Libvirt } from './rpc.ts'
import { SHUT, wayBack } from './return-path.ts'
import { watch } from './watch.ts'
import { MigrateFlag } from './words.ts'

/**
 * The source's half of a migration: libvirtd connects to our socket and lets QEMU send there. The gate lies at the very
 * end: QEMU has sent everything, holds the guest paused, and has not "completed" before it is answered (`return-path.ts`).
 *
 *     Perform ──► rounds 1, 2, ... ──► SUSPENDED ──► all is out ──► Perform's reply (paused and whole)
 *                                         │               ▲
 *                                        gate ────────────┘ the answer; or the socket is closed: it runs on
 */
export async function perform(
  here: Looked,
  order: PerformOrder,
  daemon: Daemon,
  {
    folder,
    images,
    sender,
  }: {
    readonly folder: string
    readonly images: string
    readonly sender: () => Promise<Held>
  },
): Promise<SentByHypervisor> {
  const { clock } = daemon
  const { domain } = here
  const { cookie = '', dial, signal } = order
  const policy = dial.policy()
  // libvirtd 9.0 dies of a cookie without them.
  if (!cookie.includes('<capabilities>'))
    throw failed('the cookie of the target does not say what its QEMU can do')
  const brought = disksAsked(cookie, here.xml)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const path = join(folder, 'image.sock')
  // One to send by, which is held afterwards; and one for events, which must not wait there for somebody to read them.
  const [{ libvirt, holder }, eyes, door] = await Promise.all([
    sender(),
    daemon.fresh(),
    listenFor(path),
  ])
  let memory: Socket | undefined
  let disks: DisksOut | undefined
  /** QEMU hears of it by its broken sockets, and lets the guest run on. */
  const breakOff = () => {
    memory?.destroy()
    disks?.close()
  }
  const stop = () => {
    // Its own answer says how that went; what then becomes of the guest, `resume` settles.
    eyes.call(procedures.abortJob, { domain }).catch(() => {})
    door.close()
    disks?.close()
  }
  let isBroken = false
  const send = (image: Image) => {
    const sending = order.send(image).catch((error: unknown) => {
      isBroken = true
      breakOff()
      throw error
    })
    // Waited for below, where libvirt's answer is.
    sending.catch(() => {})
    return sending
  }
  let forgetDial = () => {}
  let watched: Awaited<ReturnType<typeof watch>> | undefined
  try {
    // Also that there are none: what stands there is written over when the guest comes back.
    const sent = brought.map(({ file }) => file)
    const [following] = await Promise.all([
      watch(eyes, domain, order, clock).then((it) => (watched = it)),
      own(folder),
      setDowntime(eyes, domain, policy),
      noteSent(folder, sent),
    ])
    const atDoor = diskDoor(images, domain.name)
    if (brought.length > 0) {
      await openImages(images)
      const out = await disksToSend(brought, domain, eyes)
      disks = await disksOut(atDoor, out, policy.bandwidthBytesPerSecond, clock)
    }
    signal.throwIfAborted()
    signal.addEventListener('abort', stop, { once: true })
    const targets = brought.map(({ target }) => target)
    const asked = { domain, otherUri: undefined, cookie, ...ordered(policy, path, atDoor, targets) }
    const performing = libvirt.call(procedures.perform, asked, 'unlimited')
    const performed = performing.then(
      ({ cookie: said }) => ({ sentAt: clock.now(), said }),
      (error: unknown) => {
        throw failed(error instanceof Error ? error.message : String(error), error)
      },
    )
    performed.catch(() => {})
    // Meanwhile libvirtd and QEMU have their own beginnings to make.
    await holder?.stay(folder)
    following.onRefusal(breakOff)
    following.onFailure(() => {
      if (!isBroken) following.refuse(failed('QEMU gave the migration up by itself'))
    })
    following.begin(() => {
      breakOff()
      libvirt.close()
    })
    const connecting = Promise.race([door.socket, performed.then(overBeforeItBegan)])
    let sending: Promise<void> | undefined
    if (disks === undefined)
      memory = await within(clock, CONNECT_MS, 'libvirtd connecting with the image', connecting)
    else {
      const { image, limit } = disks
      forgetDial = dial.onTurn(policy, async (next) => {
        limit(next.bandwidthBytesPerSecond)
        await setDowntime(eyes, domain, next)
      })
      // The disks come first, however long they take.
      sending = send(image)
      const early = sending.then(overBeforeItBegan)
      memory = await Promise.race([connecting, early]).catch(async (error: unknown) => {
        breakOff()
        await within(clock, GIVE_UP_MS, 'libvirtd giving the copy up', performed).catch(() => {})
        await toldWhy(eyes, domain, following.stopped, clock)
        signal.throwIfAborted()
        throw following.refusal() ?? error
      })
    }
    const socket = memory
    socket.on('error', () => {})
    // Somebody may have broken it off just now.
    if (following.refusal() !== undefined) breakOff()
    const way = wayBack(imageFromSocket(socket), clock, {
      allIsOut: () => {
        // Until the guest has passed the gate QEMU is left waiting, and can still be sent home.
        following.gatePassed.then(
          () => {
            if (following.refusal() === undefined) socket.write(SHUT)
          },
          () => {},
        )
      },
      stalled: () => {
        following.refuse(failed('its image has no end that is known, and stopped'))
        socket.destroy()
      },
    })
    following.onPause(() => {
      disks?.hurry()
      way.paused()
    })
    if (disks === undefined) {
      forgetDial = dial.onTurn(policy, async (next) => {
        await setSpeed(eyes, domain, next)
        await setDowntime(eyes, domain, next)
      })
      sending = send(way.image)
    } else disks.memory(way.image)
    const [left, sentBy] = await Promise.allSettled([sending, performed])
    if (sentBy.status === 'rejected') await toldWhy(eyes, domain, following.stopped, clock)
    // The stream's own trouble is nearer to the cause than libvirt's complaint about it.
    signal.throwIfAborted()
    const refusal = following.refusal()
    if (refusal !== undefined) throw refusal
    if (left.status === 'rejected') throw left.reason
    if (sentBy.status === 'rejected') throw sentBy.reason
    // What is held is held by another process from now on.
    if (holder !== undefined) libvirt.close()
    const { sentAt, said } = sentBy.value
    const { pausedAt, gatePassedAt, rounds } = following.times()
    return { pausedAt, gatePassedAt, sentAt, rounds: Math.max(rounds, roundsIn(said)) }
  } catch (error) {
    await letGo(folder)
    holder?.close()
    libvirt.close()
    // For the next attempt; where it cannot be done, that one will say the same.
    if (error instanceof CopyFailed && isInTheWay(error))
      await clearTheWay(brought, domain, eyes).catch(() => {})
    // libvirt lets it run on when its migration fails, also one that somebody has paused meanwhile.
    if (watched?.isPausedByHand() === true) await eyes.call(procedures.suspend, { domain })
    throw error
  } finally {
    signal.removeEventListener('abort', stop)
    forgetDial()
    watched?.forget()
    eyes.close()
    disks?.image.stop(new Error('the copy is over'))
    disks?.close()
    // Its socket goes with it. While the guest is paused, nothing is waited for that a busy disk may hold up.
    door.close()
  }
}

const CONNECT_MS = 30_000
const GIVE_UP_MS = 10_000
const MEBIBYTE = 1024 ** 2
/** A TiB a second. */
const NO_LIMIT = 2 ** 40

const failed = (message: string, cause?: unknown) =>
  new CopyFailed({ type: 'HypervisorFailed', message }, { cause })

/** By libvirt's own count, which it tells the other host: an event may be lost. Not worth a parser while the guest is paused. */
const roundsIn = (cookie: string): number =>
  Number(/<memory_iteration>(\d+)</.exec(cookie)?.[1] ?? 0)

const overBeforeItBegan = (): never => {
  throw failed('QEMU sent nothing')
}

/**
 * What Perform is asked for. A domain remembers what it was limited to on the way, so that there is no limit is said as
 * well. What goes into one stream with disks is held back there, all together.
 */
function ordered(policy: Policy, path: string, atDoor: string, targets: readonly string[]) {
  const bringsDisks = targets.length > 0
  const bandwidth = mebibytesPerSecond(bringsDisks ? {} : policy)
  const parameters: Parameter[] = [
    { field: 'migrate_uri', is: 'string', value: `unix://${path}` },
    { field: 'bandwidth', is: 'ullong', value: bandwidth },
    ...bringing(targets),
  ]
  if (bringsDisks) parameters.push({ field: 'disks_uri', is: 'string', value: `unix://${atDoor}` })
  const flags =
    MigrateFlag.live |
    MigrateFlag.paused |
    (policy.autoConverge ? MigrateFlag.autoConverge : 0) |
    (bringsDisks ? MigrateFlag.nonSharedDisk : 0)
  return { parameters, flags }
}

const setSpeed = (libvirt: Libvirt, domain: Domain, policy: Policy) =>
  libvirt.call(procedures.setMaxSpeed, {
    domain,
    mebibytesPerSecond: mebibytesPerSecond(policy),
    flags: 0,
  })

const setDowntime = (libvirt: Libvirt, domain: Domain, policy: Policy) =>
  libvirt.call(procedures.setMaxDowntime, {
    domain,
    downtimeMs: BigInt(Math.round(policy.downtimeMs)),
    flags: 0,
  })

/** libvirt counts in whole MiB a second: what is less than one is one. */
const mebibytesPerSecond = ({
  bandwidthBytesPerSecond = NO_LIMIT,
}: Pick<Policy, 'bandwidthBytesPerSecond'>): bigint =>
  BigInt(Math.max(1, Math.round(bandwidthBytesPerSecond / MEBIBYTE)))

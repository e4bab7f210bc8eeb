import type { Socket } from 'node:net'
import { join } from 'node:path'
import type { Policy } from '@ferry/schemas/policy'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { imageFromSocket } from '../../transfer/image.ts'
import { listenFor } from '../one-visitor.ts'
import { bringing, disksToSend } from './disks.ts'
import type { DiskToSend } from './disks.ts'
import { disksOut } from './disks-out.ts'
import type { DisksOut } from './disks-out.ts'
import { diskDoor, openImages } from './images.ts'
import type { Domain } from './procedures.ts'
import { SHUT, wayBack } from './return-path.ts'
import { failed } from './way.ts'
import type { Ordered, Way } from './way.ts'
import { MigrateFlag } from './words.ts'

/**
 * libvirtd connects to our socket and lets QEMU send there. The gate lies at the very end: QEMU has sent everything, holds
 * the guest paused, and has not "completed" before it is answered (`return-path.ts`).
 *
 *     Perform ──► rounds 1, 2, ... ──► SUSPENDED ──► all is out ──► Perform's reply (paused and whole)
 *                                         │               ▲
 *                                        gate ────────────┘ the answer; or the socket is closed: it runs on
 *
 * Where disks travel they come first, however long they take, and memory follows in the same stream (`one-stream.ts`).
 */
export async function byStream(
  domain: Domain,
  brought: readonly DiskToSend[],
  { folder, images }: { readonly folder: string; readonly images: string },
  clock: Clock,
): Promise<Way> {
  const path = join(folder, 'image.sock')
  const door = await listenFor(path)
  const atDoor = diskDoor(images, domain.name)
  const bringsDisks = brought.length > 0
  let memory: Socket | undefined
  let disks: DisksOut | undefined
  const asked: Ordered = {
    parameters: [
      { field: 'migrate_uri', is: 'string', value: `unix://${path}` },
      ...bringing(brought.map(({ target }) => target)),
      ...(bringsDisks
        ? [{ field: 'disks_uri', is: 'string', value: `unix://${atDoor}` } as const]
        : []),
    ],
    flags: MigrateFlag.paused | (bringsDisks ? MigrateFlag.nonSharedDisk : 0),
  }
  return {
    asked,
    isDirect: false,
    // What goes into one stream with disks is held back there, all together.
    paces: bringsDisks ? (next) => disks?.limit(next.bandwidthBytesPerSecond) : undefined,

    open: async (libvirt, policy: Policy) => {
      if (!bringsDisks) return
      await openImages(images)
      const out = await disksToSend(brought, domain, libvirt)
      disks = await disksOut(atDoor, out, policy.bandwidthBytesPerSecond, clock)
    },

    carry: async ({ send, performed, following, begun }) => {
      const connecting = Promise.race([door.socket, performed.then(overBeforeItBegan)])
      let sending: Promise<void> | undefined
      if (disks === undefined)
        memory = await within(clock, CONNECT_MS, 'libvirtd connecting with the image', connecting)
      else {
        begun()
        sending = send(disks.image)
        memory = await Promise.race([connecting, sending.then(overBeforeItBegan)])
      }
      const socket = memory
      socket.on('error', () => {})
      // Somebody may have broken it off just now.
      if (following.refusal() !== undefined) socket.destroy()
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
        begun()
        sending = send(way.image)
      } else disks.memory(way.image)
      await sending
    },

    breakOff: () => {
      memory?.destroy()
      disks?.close()
    },
    stop: () => {
      door.close()
      disks?.close()
    },
    close: () => {
      disks?.image.stop(new Error('the copy is over'))
      disks?.close()
      // Its socket goes with it. While the guest is paused, nothing is waited for that a busy disk may hold up.
      door.close()
    },
  }
}

const CONNECT_MS = 30_000

const overBeforeItBegan = (): never => {
  throw failed('QEMU sent nothing')
}

import { chown, mkdir, stat } from 'node:fs/promises'
import { join } from 'node:path'

/**
 * Where QEMU listens, or is listened for. The names end as libvirt's own sockets for images do: that is what its AppArmor
 * profile for guests allows under /run/libvirt.
 */
export const imageSocket = (images: string, vm: string): string =>
  join(images, `ferry.${ending(vm)}`)
/** The target's QEMU takes changes of disks there. */
export const diskSocket = (images: string, vm: string): string =>
  join(images, `ferry.disks.${ending(vm)}`)
/** The source's QEMU brings them here. */
export const diskDoor = (images: string, vm: string): string =>
  join(images, `ferry.sent.${ending(vm)}`)

const ending = (vm: string) => `tunnelmigrate.dest.${vm}`

const LONGEST_SOCKET_PATH = 107

export const fits = (images: string, vm: string): boolean =>
  Buffer.byteLength(diskSocket(images, vm)) <= LONGEST_SOCKET_PATH

/** QEMU uses sockets there as the user that libvirt runs guests as. */
export async function openImages(images: string): Promise<void> {
  await mkdir(images, { recursive: true, mode: 0o700 })
  await giveToGuests(images)
}

/** That user is the owner of libvirt's own folder for guests. */
export async function giveToGuests(path: string): Promise<void> {
  const owner = await stat(GUESTS_OF_LIBVIRT).catch(() => undefined)
  if (owner !== undefined) await chown(path, owner.uid, owner.gid)
}

const GUESTS_OF_LIBVIRT = '/var/lib/libvirt/qemu'

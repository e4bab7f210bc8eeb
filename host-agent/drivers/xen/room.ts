import type { GuestNeeds } from '@ferry/schemas/guest'
import type { HostRefusal } from '@ferry/schemas/refusal'
import type { Notes } from './notes.ts'
import type { Xl } from './xl.ts'

const MEBIBYTE = 1024 ** 2

/**
 * What Xen has left, less what was promised to copies that have not come yet.
 *
 * @param coming what the domain of such a copy is called.
 * @returns why this host has no room.
 */
export async function refuseRoom(
  vm: string,
  neededBytes: number,
  xl: Xl,
  notes: Pick<Notes<{ readonly vm: string; readonly needs: GuestNeeds }>, 'all'>,
  coming: (vm: string) => string,
): Promise<HostRefusal | undefined> {
  const [info, all, domains] = await Promise.all([xl.info(), notes.all(), xl.domains()])
  const free = Number(info.get('free_memory') ?? 0) * MEBIBYTE
  const promised = all
    .filter((note) => note.vm !== vm && !domains.some(({ name }) => name === coming(note.vm)))
    .reduce((sum, { needs }) => sum + needs.memoryBytes, 0)
  const freeBytes = Math.max(0, free - promised)
  return neededBytes > freeBytes ? { type: 'NotEnoughMemory', neededBytes, freeBytes } : undefined
}

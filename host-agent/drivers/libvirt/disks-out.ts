import { rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { Socket } from 'node:net'
import type { Clock } from '@ferry/events/clock'
import { makePace } from '../../transfer/pace.ts'
import { answerNbd } from '../nbd/answer.ts'
import type { Export } from '../nbd/answer.ts'
import { giveToGuests } from './images.ts'
import { joined } from './one-stream.ts'
import type { Joined } from './one-stream.ts'

/** A disk as it leaves: by the name under which libvirt's two ends know it. */
export type DiskOut = { readonly name: string; readonly sizeBytes: number }

export type DisksOut = Joined & {
  readonly limit: (bytesPerSecond: number | undefined) => void
  /** QEMU cannot write any more, and its guest runs on. */
  readonly close: () => void
}

/**
 * libvirt has the source's QEMU mirror each disk to an NBD server on the target, and NBD answers. Ferry's stream goes one
 * way, so QEMU is answered here: that a change is done means that it is on its way, before the rest of the memory and
 * before the end frame; that it has arrived, the target finds out before it commits. Mirrors are not read from.
 */
export async function disksOut(
  path: string,
  disks: readonly DiskOut[],
  bytesPerSecond: number | undefined,
  clock: Clock,
): Promise<DisksOut> {
  const pace = makePace(clock, bytesPerSecond)
  const stream = joined(pace, clock)
  const visitors = new Set<Socket>()
  const taken = new Set<string>()

  const open = async (name: string): Promise<Export | undefined> => {
    const number = disks.findIndex((disk) => disk.name === name)
    const disk = disks[number]
    if (disk === undefined || taken.has(name)) return undefined
    taken.add(name)
    await stream.disk(number, name, disk.sizeBytes)
    return { sizeBytes: disk.sizeBytes, take: (change) => stream.change(number, change) }
  }
  await rm(path, { force: true })
  const server = createServer((visitor) => {
    visitors.add(visitor)
    visitor.once('close', () => visitors.delete(visitor))
    visitor.on('error', () => {})
    // What it says after all is not worth an answer: QEMU hears of it by its broken socket, and says what it thinks of it.
    answerNbd(visitor, open).then(
      () => visitor.end(),
      () => visitor.destroy(),
    )
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, resolve)
  })
  await giveToGuests(path)
  return {
    ...stream,
    limit: pace.limit,
    close: () => {
      server.close()
      for (const visitor of visitors) visitor.destroy()
    },
  }
}

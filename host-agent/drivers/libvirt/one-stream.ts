import { Writable } from 'node:stream'
import type { Clock } from '@ferry/events/clock'
import { FRAME_HEADER_BYTES } from '../../transfer/frames.ts'
import type { Image } from '../../transfer/image.ts'
import type { Pace } from '../../transfer/pace.ts'
import type { Change } from '../nbd/answer.ts'
import { written } from '../nbd/bytes.ts'
import type { Told } from '../nbd/tell.ts'

/**
 * Memory and disks of one guest in one image, so that one end frame counts and digests all of it, and no write to a disk
 * can come behind the memory that speaks of it.
 *
 *     record: kind (1 byte), disk (1), flags (2), length (4), offset (8); then `length` bytes, if it is of a kind that has any
 *
 * A disk has a number from its first record on, which holds its name and, as its offset, its size. All numbers stand
 * with the high byte first, all lengths are in bytes.
 */
const RECORD_BYTES = 16
const kinds = { memory: 0, disk: 1, write: 2, zeroes: 3, trim: 4 } as const
const KEEPS_ROOM = 1
const LONGEST_NAME_BYTES = 4096
export const MOST_DISKS = 256

type Kind = keyof typeof kinds
type Head = {
  readonly kind: Kind
  readonly disk?: number
  readonly keepsRoom?: boolean
  readonly length: number
  readonly offset?: number
}

export type Joined = {
  readonly image: Image
  /** From now on memory comes as well; at its end all is at its end. */
  readonly memory: (image: Image) => void
  /** Resolves when it is on its way, in its order. */
  readonly disk: (number: number, name: string, sizeBytes: number) => Promise<void>
  readonly change: (number: number, change: Change) => Promise<void>
  /** The guest is paused: nothing is held back any more. */
  readonly hurry: () => void
}

export function joined(pace: Pace, clock: Clock): Joined {
  const waiting: { readonly frame: Buffer; readonly taken: (stopped?: Error) => void }[] = []
  const hurried = new AbortController()
  let memory: Image | undefined
  let isReading = false
  let isOver = false
  let fresh: Buffer[] = []
  let stopped: Error | undefined
  let wake = () => {}

  const readMemory = async (from: Image) => {
    isReading = true
    try {
      const frame = await from.next()
      if (frame === undefined) isOver = true
      else fresh = [framed({ kind: 'memory', length: frame.length - FRAME_HEADER_BYTES }), frame]
    } catch (error) {
      stopped ??= error instanceof Error ? error : new Error(String(error))
    } finally {
      isReading = false
      wake()
    }
  }
  const put = (frame: Buffer) =>
    new Promise<void>((resolve, reject) => {
      if (stopped !== undefined) return reject(stopped)
      waiting.push({ frame, taken: (error) => (error === undefined ? resolve() : reject(error)) })
      wake()
    })
  const take = async (): Promise<Buffer | undefined> => {
    for (;;) {
      if (stopped !== undefined) throw stopped
      // A piece of memory follows right behind its head.
      const piece = fresh.shift()
      if (piece !== undefined) return piece
      const first = waiting.shift()
      if (first !== undefined) {
        first.taken()
        return first.frame
      }
      if (isOver) return undefined
      if (memory !== undefined && !isReading) void readMemory(memory)
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }
  return {
    image: {
      next: async () => {
        const frame = await take()
        if (frame === undefined || hurried.signal.aborted) return frame
        const pauseMs = pace.take(frame.length - FRAME_HEADER_BYTES)
        if (pauseMs > 0) await clock.sleep(pauseMs, hurried.signal).catch(() => {})
        return frame
      },
      stop: (error) => {
        stopped ??= error
        memory?.stop(error)
        for (const { taken } of waiting.splice(0)) taken(error)
        hurried.abort()
        wake()
      },
    },
    memory: (image) => {
      memory = image
      if (stopped !== undefined) image.stop(stopped)
      wake()
    },
    disk: (number, name, sizeBytes) => {
      const bytes = Buffer.from(name)
      return put(
        framed({ kind: 'disk', disk: number, length: bytes.length, offset: sizeBytes }, bytes),
      )
    },
    change: (disk, change) => {
      const { does: kind, offset } = change
      if ('bytes' in change)
        return put(framed({ kind, disk, offset, length: change.bytes.length }, change.bytes))
      const { length, keepsRoom } = change
      return put(framed({ kind, disk, offset, length, keepsRoom }))
    },
    hurry: () => hurried.abort(),
  }
}

/** A record with room for a frame's head in front of it. */
function framed(head: Head, bytes: Buffer = Buffer.alloc(0)): Buffer {
  const { kind, disk = 0, keepsRoom = false, length, offset = 0 } = head
  const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES + RECORD_BYTES + bytes.length)
  const at = FRAME_HEADER_BYTES
  frame.writeUInt8(kinds[kind], at)
  frame.writeUInt8(disk, at + 1)
  frame.writeUInt16BE(keepsRoom ? KEEPS_ROOM : 0, at + 2)
  frame.writeUInt32BE(length, at + 4)
  frame.writeBigUInt64BE(BigInt(offset), at + 8)
  bytes.copy(frame, at + RECORD_BYTES)
  return frame
}

/** What came is not made of such records. */
class RecordInvalid extends Error {
  override readonly name = 'RecordInvalid'
}

/**
 * Takes such an image apart again, record by record. At its end all disks are flushed, and then the memory is ended.
 *
 * @param open is asked for each disk once.
 */
export function apart(
  memory: Writable,
  open: (name: string, sizeBytes: number) => Promise<Told>,
): Writable {
  const disks = new Map<number, Told>()
  let head: Buffer = Buffer.alloc(0)
  let take: (piece: Buffer) => Promise<void> = async () => {}
  let missing = 0
  /** What has been handed on, and whose memory is not free yet. */
  let handedOn: Promise<void>[] = []

  const handOn = (handing: Promise<void>) => {
    handing.catch(() => {})
    handedOn.push(handing)
  }
  const diskOf = (number: number): Told => {
    const disk = disks.get(number)
    if (disk === undefined) throw new RecordInvalid(`nobody has spoken of disk ${number}`)
    return disk
  }
  const begin = async (record: Buffer): Promise<void> => {
    const number = record.readUInt8(1)
    const keepsRoom = (record.readUInt16BE(2) & KEEPS_ROOM) !== 0
    const length = record.readUInt32BE(4)
    const offset = Number(record.readBigUInt64BE(8))
    switch (record.readUInt8(0)) {
      case kinds.memory:
        missing = length
        take = async (piece) => handOn(written(memory, piece))
        return undefined
      case kinds.disk: {
        if (length === 0 || length > LONGEST_NAME_BYTES)
          throw new RecordInvalid(`the name of disk ${number} has ${length} bytes`)
        let name: Buffer = Buffer.alloc(0)
        missing = length
        take = async (piece) => {
          name = Buffer.concat([name, piece])
          if (name.length < length) return
          if (disks.has(number)) throw new RecordInvalid(`disk ${number} was there before`)
          disks.set(number, await open(name.toString('utf8'), offset))
        }
        return undefined
      }
      case kinds.write: {
        const disk = diskOf(number)
        missing = length
        take = async (piece) => handOn(disk.bytes(piece))
        return disk.begin('write', { offset, length }, false)
      }
      case kinds.zeroes:
        return diskOf(number).begin('zeroes', { offset, length }, keepsRoom)
      case kinds.trim:
        return diskOf(number).begin('trim', { offset, length }, false)
      default:
        throw new RecordInvalid(`there is no kind of record ${record.readUInt8(0)}`)
    }
  }
  const takeOne = async (chunk: Buffer): Promise<void> => {
    let at = 0
    while (at < chunk.length) {
      if (missing > 0) {
        const piece = chunk.subarray(at, at + missing)
        at += piece.length
        missing -= piece.length
        await take(piece)
        continue
      }
      const piece = chunk.subarray(at, at + RECORD_BYTES - head.length)
      at += piece.length
      // It outlives this chunk, whose memory may be given back.
      head = Buffer.concat([head, piece])
      if (head.length < RECORD_BYTES) return
      const record = head
      head = Buffer.alloc(0)
      await begin(record)
    }
  }
  /** In as few writes as it can be: memory comes in small pieces, and a paused guest waits for its last ones. */
  const takeAll = async (chunks: readonly Buffer[]): Promise<void> => {
    memory.cork()
    try {
      for (const chunk of chunks) await takeOne(chunk)
    } finally {
      memory.uncork()
      const all = Promise.all(handedOn)
      handedOn = []
      await all
    }
  }
  const end = async (): Promise<void> => {
    if (missing > 0 || head.length > 0) throw new RecordInvalid('it ended within a record')
    for (const disk of disks.values()) await disk.flush()
    for (const disk of disks.values()) disk.close()
    await new Promise<void>((resolve) => {
      memory.end(resolve)
    })
  }
  const front = new Writable({
    write: (chunk: Buffer, _, done) => void answer(takeAll([chunk]), done),
    writev: (pieces, done) => {
      const chunks = pieces.map(({ chunk }): Buffer => chunk)
      void answer(takeAll(chunks), done)
    },
    final: (done) => void answer(end(), done),
    destroy: (error, done) => {
      if (error !== null) for (const disk of disks.values()) disk.drop()
      done(error)
    },
  })
  front.on('error', () => {})
  return front
}

async function answer(work: Promise<void>, done: (error?: Error) => void): Promise<void> {
  try {
    await work
  } catch (error) {
    return done(error instanceof Error ? error : new Error(String(error)))
  }
  return done()
}

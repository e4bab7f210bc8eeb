import type { Socket } from 'node:net'
import { bytesFrom, written } from './bytes.ts'
import {
  ANSWER,
  Answer,
  CAN,
  COOKIE_BYTES,
  Command,
  GREETING,
  INFO_EXPORT,
  INFO_EXPORT_BYTES,
  INVALID,
  KEEP_ROOM,
  LONGEST_OPTION_BYTES,
  LONGEST_WRITE_BYTES,
  NO_ERROR,
  NbdInvalid,
  OPTION,
  OPTION_BYTES,
  Option,
  PLAIN,
  REPLY,
  REPLY_BYTES,
  REQUEST,
  REQUEST_BYTES,
} from './words.ts'

/** What is done to a disk. `offset` and lengths are in bytes. */
export type Change =
  | { readonly does: 'write'; readonly offset: number; readonly bytes: Buffer }
  | {
      readonly does: 'zeroes' | 'trim'
      readonly offset: number
      readonly length: number
      readonly keepsRoom: boolean
    }

export type Export = {
  readonly sizeBytes: number
  /** Takes a change over; whoever made it hears that it is done when this resolves. */
  readonly take: (change: Change) => Promise<void>
}

/**
 * Is an NBD server for one visitor, which may write and not read: changes are taken one by one, in the order in which
 * they came. A flush is answered at once, since whoever takes the changes looks after that itself.
 *
 * @param open finds an export by its name, for good.
 * @returns when the visitor has hung up.
 * @throws {NbdInvalid} when it says something else.
 */
export async function answerNbd(
  socket: Socket,
  open: (name: string) => Promise<Export | undefined>,
): Promise<void> {
  const read = bytesFrom(socket)
  await written(socket, Buffer.concat([GREETING, number16(PLAIN)]))
  await read(4)
  const disk = await chosen(socket, read, open)
  if (disk === undefined) return
  for (;;) {
    const request = await read(REQUEST_BYTES)
    if (request.readUInt32BE(0) !== REQUEST) throw new NbdInvalid('it sent no request')
    const flags = request.readUInt16BE(4)
    const command = request.readUInt16BE(6)
    const cookie = request.subarray(8, 8 + COOKIE_BYTES)
    const offset = Number(request.readBigUInt64BE(16))
    const length = request.readUInt32BE(24)
    if (command === Command.hangUp) return
    if (command === Command.write && length > LONGEST_WRITE_BYTES)
      throw new NbdInvalid(`a write of ${length} bytes`)
    const bytes = command === Command.write ? await read(length) : undefined
    const isInside = offset + length <= disk.sizeBytes
    let error = NO_ERROR
    if (command === Command.flush) error = NO_ERROR
    else if (!isInside) error = INVALID
    else if (bytes !== undefined) await disk.take({ does: 'write', offset, bytes })
    else if (command === Command.zeroes || command === Command.trim) {
      const does = command === Command.zeroes ? 'zeroes' : 'trim'
      await disk.take({ does, offset, length, keepsRoom: (flags & KEEP_ROOM) !== 0 })
    } else error = INVALID
    await written(socket, reply(error, cookie))
  }
}

type Read = (length: number) => Promise<Buffer>

/** Options, until the visitor has chosen an export. @returns undefined: it went without. */
async function chosen(
  socket: Socket,
  read: Read,
  open: (name: string) => Promise<Export | undefined>,
): Promise<Export | undefined> {
  for (;;) {
    const head = await read(OPTION_BYTES)
    if (!head.subarray(0, 8).equals(OPTION)) throw new NbdInvalid('it sent no option')
    const option = head.readUInt32BE(8)
    const length = head.readUInt32BE(12)
    if (length > LONGEST_OPTION_BYTES) throw new NbdInvalid(`an option of ${length} bytes`)
    const said = await read(length)
    const say = (kind: number, data = Buffer.alloc(0)) =>
      written(socket, answer(option, kind, data))
    if (option === Option.abort) {
      await say(Answer.ack)
      return undefined
    }
    if (option !== Option.go) {
      await say(Answer.unsupported)
      continue
    }
    if (length < 4 || 4 + said.readUInt32BE(0) > length)
      throw new NbdInvalid('it chose an export without a name')
    const disk = await open(said.subarray(4, 4 + said.readUInt32BE(0)).toString('utf8'))
    if (disk === undefined) {
      await say(Answer.unknown)
      continue
    }
    const info = Buffer.alloc(INFO_EXPORT_BYTES)
    info.writeUInt16BE(INFO_EXPORT, 0)
    info.writeBigUInt64BE(BigInt(disk.sizeBytes), 2)
    info.writeUInt16BE(CAN, 10)
    await say(Answer.info, info)
    await say(Answer.ack)
    return disk
  }
}

function answer(option: number, kind: number, data: Buffer): Buffer {
  const numbers = Buffer.alloc(12)
  numbers.writeUInt32BE(option, 0)
  numbers.writeUInt32BE(kind, 4)
  numbers.writeUInt32BE(data.length, 8)
  return Buffer.concat([ANSWER, numbers, data])
}

function reply(error: number, cookie: Buffer): Buffer {
  const bytes = Buffer.alloc(REPLY_BYTES)
  bytes.writeUInt32BE(REPLY, 0)
  bytes.writeUInt32BE(error, 4)
  cookie.copy(bytes, 8)
  return bytes
}

function number16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}

import { createConnection } from 'node:net'
import { bytesFrom, written } from './bytes.ts'
import {
  ANSWER,
  ANSWER_BYTES,
  Answer,
  Command,
  GREETING,
  INFO_EXPORT,
  INFO_EXPORT_BYTES,
  KEEP_ROOM,
  LONGEST_OPTION_BYTES,
  NO_ERROR,
  NbdInvalid,
  OPTION,
  Option,
  PLAIN,
  REPLY,
  REPLY_BYTES,
  REQUEST,
  REQUEST_BYTES,
} from './words.ts'

/** A disk behind an NBD server, which is written to and never read. Calls come one by one. */
export type Told = {
  /** Begins a change. Behind a `write` its bytes follow, by `bytes`, as many as were promised. */
  readonly begin: (
    does: 'write' | 'zeroes' | 'trim',
    at: Range,
    keepsRoom: boolean,
  ) => Promise<void>
  readonly bytes: (piece: Buffer) => Promise<void>
  /** Resolves when all that was told is done, and on its disk. */
  readonly flush: () => Promise<void>
  readonly close: () => void
  /** Leaves in the middle of something. */
  readonly drop: () => void
}

export type Range = { readonly offset: number; readonly length: number }

/** QEMU works on so many requests of one visitor at a time; more wait in the socket. */
const MOST_AT_ONCE = 16
/** A paused guest waits for the last flush, so that must not have much to do. */
const FLUSH_EVERY_BYTES = 16 * 1024 ** 2

/**
 * Opens one export. A server may carry out what it was told in any order, so of two changes to the same bytes the second
 * is told when the first is done; whoever made them had heard before that they were.
 *
 * @throws {NbdInvalid}, or what the socket says.
 */
export async function tellNbd(path: string, name: string, sizeBytes: number): Promise<Told> {
  const socket = createConnection(path)
  const read = bytesFrom(socket)
  try {
    await choose(read, (bytes) => written(socket, bytes), name, sizeBytes)
  } catch (error) {
    socket.destroy()
    throw error
  }

  const underway = new Map<bigint, Range>()
  let cookie = 0n
  let flushing = 0n
  let unflushedBytes = 0
  let broken: Error | undefined
  let wake = () => {}
  const listen = async () => {
    for (;;) {
      const reply = await read(REPLY_BYTES)
      const its = reply.readBigUInt64BE(8)
      const error = reply.readUInt32BE(4)
      if (reply.readUInt32BE(0) !== REPLY || !underway.delete(its))
        throw new NbdInvalid('it answered what it was not asked')
      if (error !== NO_ERROR)
        throw new NbdInvalid(`the disk ${name} cannot be written (errno ${error})`)
      wake()
    }
  }
  listen().catch((error: unknown) => {
    broken = error instanceof Error ? error : new Error(String(error))
    socket.destroy()
    wake()
  })
  const until = async (isSo: () => boolean) => {
    for (;;) {
      if (broken !== undefined) throw broken
      if (isSo()) return
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }
  const request = async (command: number, at: Range, flags = 0) => {
    cookie += 1n
    underway.set(cookie, at)
    const bytes = Buffer.alloc(REQUEST_BYTES)
    bytes.writeUInt32BE(REQUEST, 0)
    bytes.writeUInt16BE(flags, 4)
    bytes.writeUInt16BE(command, 6)
    bytes.writeBigUInt64BE(cookie, 8)
    bytes.writeBigUInt64BE(BigInt(at.offset), 16)
    bytes.writeUInt32BE(at.length, 24)
    await written(socket, bytes)
  }
  /** One at a time: a disk that is slower than the network holds it back here, and not at the end. */
  const flushNow = async () => {
    await until(() => !underway.has(flushing))
    unflushedBytes = 0
    await request(Command.flush, { offset: 0, length: 0 })
    flushing = cookie
  }
  const isFree = (wanted: Range) => {
    for (const { offset, length } of underway.values())
      if (offset < wanted.offset + wanted.length && wanted.offset < offset + length) return false
    return underway.size < MOST_AT_ONCE
  }

  return {
    begin: async (does, at, keepsRoom) => {
      if (unflushedBytes >= FLUSH_EVERY_BYTES) await flushNow()
      if (does === 'write') unflushedBytes += at.length
      await until(() => isFree(at))
      await request(Command[does], at, keepsRoom ? KEEP_ROOM : 0)
    },
    bytes: (piece) => written(socket, piece),
    flush: async () => {
      await until(() => underway.size === 0)
      await flushNow()
      await until(() => underway.size === 0)
    },
    close: () => {
      const bytes = Buffer.alloc(REQUEST_BYTES)
      bytes.writeUInt32BE(REQUEST, 0)
      bytes.writeUInt16BE(Command.hangUp, 6)
      socket.end(bytes)
    },
    drop: () => socket.destroy(),
  }
}

async function choose(
  read: (length: number) => Promise<Buffer>,
  write: (bytes: Buffer) => Promise<void>,
  name: string,
  sizeBytes: number,
): Promise<void> {
  const greeting = await read(GREETING.length + 2)
  if (!greeting.subarray(0, GREETING.length).equals(GREETING))
    throw new NbdInvalid('it does not speak NBD')
  const its = Buffer.from(name)
  const go = Buffer.alloc(4 + 8 + 4 + 4)
  go.writeUInt32BE(PLAIN, 0)
  OPTION.copy(go, 4)
  go.writeUInt32BE(Option.go, 12)
  go.writeUInt32BE(4 + its.length + 2, 16)
  const length = Buffer.alloc(4)
  length.writeUInt32BE(its.length)
  // No more than the size is asked for.
  await write(Buffer.concat([go, length, its, Buffer.alloc(2)]))
  let found: bigint | undefined
  for (;;) {
    const head = await read(ANSWER_BYTES)
    if (!head.subarray(0, 8).equals(ANSWER)) throw new NbdInvalid('it sent no answer')
    const kind = head.readUInt32BE(12)
    const bytes = head.readUInt32BE(16)
    if (bytes > LONGEST_OPTION_BYTES) throw new NbdInvalid(`an answer of ${bytes} bytes`)
    const said = await read(bytes)
    if (kind === Answer.ack) break
    if (kind !== Answer.info) throw new NbdInvalid(`it has no disk ${name} (answer ${kind})`)
    if (said.length === INFO_EXPORT_BYTES && said.readUInt16BE(0) === INFO_EXPORT)
      found = said.readBigUInt64BE(2)
  }
  if (found !== BigInt(sizeBytes))
    throw new NbdInvalid(`the disk ${name} has ${found} bytes there, and ${sizeBytes} here`)
}

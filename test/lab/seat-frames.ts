import type { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import type { Policy } from '@ferry/schemas/policy'
import type { Failure } from '@ferry/schemas/refusal'

/**
 * What a test and a driver in another machine's dom0 say to each other: one connection for each call. A frame is a byte
 * that says what it is, its length in 32 bits, and JSON or a piece of an image.
 */
export type Word =
  | { readonly call: string; readonly words: readonly unknown[] }
  | { readonly result: unknown }
  | { readonly error: Trouble }
  | { readonly gate: 'asked' | 'passed' | Failure }
  | { readonly paused: number }
  | { readonly round: unknown }
  | { readonly progress: unknown }
  | { readonly fill: 'begin' | 'done' | Failure }
  | { readonly sent: 'done' | Failure }
  | { readonly stop: true }
  | { readonly policy: Policy }

export type Trouble = {
  readonly name: string
  readonly message: string
  readonly failure?: Failure
}

const JSON_FRAME = 1
const DATA_FRAME = 2
const HEAD_BYTES = 5

export type Seat = {
  readonly say: (word: Word) => void
  /** Resolves when the network has room for more. */
  readonly give: (piece: Buffer) => Promise<void>
}

export function openSeat(
  socket: Socket,
  heard: (word: Word) => void,
  came: (piece: Buffer) => void,
): Seat {
  let rest: Buffer[] = []
  let restBytes = 0
  socket.on('error', () => {})
  socket.on('data', (chunk) => {
    rest.push(chunk)
    restBytes += chunk.length
    if (restBytes < wanted()) return
    let bytes = Buffer.concat(rest)
    while (bytes.length >= HEAD_BYTES && bytes.length >= HEAD_BYTES + bytes.readUInt32BE(1)) {
      const end = HEAD_BYTES + bytes.readUInt32BE(1)
      const body = bytes.subarray(HEAD_BYTES, end)
      if (bytes[0] === DATA_FRAME) came(body)
      else heard(JSON.parse(body.toString('utf8')) as Word)
      bytes = bytes.subarray(end)
    }
    rest = [bytes]
    restBytes = bytes.length
  })
  const wanted = () => {
    const [first] = rest
    return first === undefined || first.length < HEAD_BYTES
      ? HEAD_BYTES
      : HEAD_BYTES + first.readUInt32BE(1)
  }
  const write = (kind: number, body: Buffer) => {
    const head = Buffer.alloc(HEAD_BYTES)
    head.writeUInt8(kind, 0)
    head.writeUInt32BE(body.length, 1)
    socket.cork()
    socket.write(head)
    const hasRoom = socket.write(body)
    socket.uncork()
    return hasRoom
  }
  return {
    say: (word) => void write(JSON_FRAME, Buffer.from(JSON.stringify(word))),
    give: async (piece) => {
      if (!write(DATA_FRAME, piece) && !socket.destroyed) await hasRoom(socket)
    },
  }
}

/** Resolves when what was written is on its way, or never will be. */
export const hasRoom = (stream: Writable): Promise<void> =>
  new Promise((resolve) => {
    const go = () => {
      stream.removeListener('drain', go).removeListener('close', go)
      resolve()
    }
    stream.on('drain', go).on('close', go)
  })

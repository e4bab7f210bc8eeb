import { Type } from 'typebox'
import type { Static } from 'typebox'
import type { Versions } from '@ferry/schemas/versions'
import { Bytes, Digest, Id, Version } from '@ferry/schemas/words'

/**
 * The bytes on the wire, in one direction only:
 *
 *     header frame · data frame · data frame · ... · end frame
 *
 * Each frame is eight bytes, its kind and the length of what follows, both as 32-bit numbers with the high byte first,
 * and then that. Header and end are JSON. There is no negotiation: the version is what Begin and Prepare agreed on, which
 * is one of these.
 */
export const transferVersions: Versions = { lowest: 1, highest: 1 }

export const FRAME_HEADER_BYTES = 8
export const kinds = { header: 1, data: 2, end: 3 } as const
export type FrameKind = keyof typeof kinds

/** A frame that says more about itself than this is garbage. Data frames are bounded by their 32-bit length alone. */
export const LONGEST_TEXT_BYTES = 4096

export const HeaderFrame = Type.Object({ version: Version, transfer: Id })
export type HeaderFrame = Static<typeof HeaderFrame>

/** Sent only after the hypervisor has said that the whole image is out. Without it nothing is committed (rule 2). */
export const EndFrame = Type.Object({ bytes: Bytes, digest: Digest })
export type EndFrame = Static<typeof EndFrame>

/** What both ends say went through: the receipt. */
export type Receipt = EndFrame

/** Writes a frame's head into eight bytes. */
export function writeHead(into: Buffer, kind: FrameKind, length: number): Buffer {
  into.writeUInt32BE(kinds[kind], 0)
  into.writeUInt32BE(length, 4)
  return into
}

/** A whole frame of text. */
export function textFrame(kind: 'header' | 'end', content: HeaderFrame | EndFrame): Buffer {
  const body = Buffer.from(JSON.stringify(content))
  return Buffer.concat([writeHead(Buffer.alloc(FRAME_HEADER_BYTES), kind, body.length), body])
}

/** What is not a frame, in a sentence. */
export class FrameInvalid extends Error {
  override readonly name = 'FrameInvalid'
}

export type FrameListener = {
  /** A piece of a data frame: a view into the chunk that came, valid until it is given back. */
  readonly data: (piece: Buffer) => void
  readonly text: (kind: 'header' | 'end', body: string) => void
}

/** Takes the stream apart, however it was cut into chunks; copies nothing but heads and texts that were cut. */
export function frameReader(listener: FrameListener): (chunk: Buffer) => void {
  let head: Buffer = Buffer.alloc(0)
  let kind: FrameKind | undefined
  let missing = 0
  let text: Buffer[] = []

  const startFrame = (bytes: Buffer) => {
    const code = bytes.readUInt32BE(0)
    missing = bytes.readUInt32BE(4)
    kind =
      code === kinds.data
        ? 'data'
        : code === kinds.header
          ? 'header'
          : code === kinds.end
            ? 'end'
            : undefined
    if (kind === undefined) throw new FrameInvalid(`there is no kind of frame ${code}`)
    if (kind !== 'data' && missing > LONGEST_TEXT_BYTES)
      throw new FrameInvalid(`a ${kind} frame of ${missing} bytes`)
  }
  const takeBody = (piece: Buffer) => {
    missing -= piece.length
    if (kind === 'data') {
      if (piece.length > 0) listener.data(piece)
    } else text.push(piece)
    if (missing > 0) return
    if (kind === 'header' || kind === 'end') {
      const body = Buffer.concat(text).toString('utf8')
      text = []
      listener.text(kind, body)
    }
    kind = undefined
  }

  return (chunk) => {
    let at = 0
    while (at < chunk.length) {
      if (kind === undefined) {
        const wanted = FRAME_HEADER_BYTES - head.length
        const piece = chunk.subarray(at, at + wanted)
        at += piece.length
        head = head.length === 0 ? piece : Buffer.concat([head, piece])
        if (head.length < FRAME_HEADER_BYTES) {
          // It outlives this chunk, whose memory may be given back.
          head = Buffer.from(head)
          return
        }
        startFrame(head)
        head = Buffer.alloc(0)
        if (missing === 0) takeBody(chunk.subarray(at, at))
        continue
      }
      const piece = chunk.subarray(at, at + missing)
      at += piece.length
      takeBody(kind === 'data' ? piece : Buffer.from(piece))
    }
  }
}

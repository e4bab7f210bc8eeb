import type { Clock } from '@ferry/events/clock'
import { FRAME_HEADER_BYTES } from '../../transfer/frames.ts'
import type { Image } from '../../transfer/image.ts'

/**
 * libvirt has QEMU open a way back: the source's QEMU has not "completed" until the other end has said that it loaded
 * everything. Ferry's stream goes one way, and its own end frame says that better; so the source's agent answers in the
 * target's place. It must not do so before the last byte has come, or QEMU gives up, and the guest runs on at home.
 *
 * QEMU's stream ends with a description of itself: a byte 6, a length, and JSON of exactly that length. The answer is
 * given when the guest is paused, such an end is the last that was read, and nothing follows. Memory that only looks
 * like it costs an attempt and nothing else: what was not sent is missing in the target's count.
 */
export type WayBack = {
  readonly image: Image
  /** The vCPUs stand still: an end can come. */
  readonly paused: () => void
}

/** MIG_RP_MSG_SHUT, four bytes long: no error. */
export const SHUT = Buffer.from([0, 1, 0, 4, 0, 0, 0, 0])

const DESCRIPTION = 6
const DESCRIPTION_BEGINS = '{"page_size"'
const DESCRIPTION_ENDS = 0x7d
const HEAD_BYTES = 5
/** Larger than any description: a machine with hundreds of devices has one of some hundred KiB, most have less than this. */
const TAIL_BYTES = 4 * 1024 ** 2
const MOST_HAVE_BYTES = 128 * 1024
const QUIET_MS = 1
const STALLED_MS = 15_000

export function wayBack(
  image: Image,
  clock: Clock,
  tell: { readonly allIsOut: () => void; readonly stalled: () => void },
): WayBack {
  const tail = makeTail(TAIL_BYTES)
  let isPaused = false
  let isWaiting = false
  let forget = () => {}
  const isAtEnd = () =>
    tail.endsWith(DESCRIPTION_ENDS) &&
    (endsWithDescription(tail.last(MOST_HAVE_BYTES)) || endsWithDescription(tail.last(TAIL_BYTES)))
  /** While nothing comes: either this was all, or something is wrong. */
  const wait = () => {
    forget()
    if (!isPaused || !isWaiting) return
    forget = isAtEnd()
      ? clock.after(QUIET_MS, tell.allIsOut)
      : clock.after(STALLED_MS, tell.stalled)
  }
  return {
    paused: () => {
      isPaused = true
      wait()
    },
    image: {
      stop: image.stop,
      next: async () => {
        isWaiting = true
        wait()
        try {
          const frame = await image.next()
          if (frame !== undefined) tail.add(frame.subarray(FRAME_HEADER_BYTES))
          return frame
        } finally {
          isWaiting = false
          forget()
        }
      },
    },
  }
}

/** Whether a stream that ends here has QEMU's description of itself at its end. */
export function endsWithDescription(bytes: Buffer): boolean {
  if (bytes.at(-1) !== DESCRIPTION_ENDS) return false
  const begins = bytes.lastIndexOf(DESCRIPTION_BEGINS)
  const head = begins - HEAD_BYTES
  return (
    head >= 0 &&
    bytes[head] === DESCRIPTION &&
    bytes.readUInt32BE(head + 1) === bytes.length - begins
  )
}

/** The last bytes of what went by, in a ring: nothing is allocated for what goes by. */
function makeTail(size: number) {
  const ring = Buffer.allocUnsafe(size)
  let at = 0
  let isFull = false
  return {
    add: (piece: Buffer) => {
      const kept = piece.subarray(Math.max(0, piece.length - size))
      const first = kept.copy(ring, at)
      kept.copy(ring, 0, first)
      isFull ||= at + kept.length >= size
      at = (at + kept.length) % size
    },
    endsWith: (byte: number) => (isFull || at > 0) && ring[(at + size - 1) % size] === byte,
    /** As many of them as there are: a copy only where they lie in two pieces. */
    last: (most: number): Buffer => {
      if (at >= most || !isFull) return ring.subarray(Math.max(0, at - most), at)
      return Buffer.concat([ring.subarray(size - (most - at)), ring.subarray(0, at)])
    },
  }
}

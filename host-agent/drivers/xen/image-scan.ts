/**
 * Where an image ends, which nobody says: after its last byte xl waits for an answer. So the records are followed as they
 * go by, as far as it takes to find the next one (`docs/specs/libxc-migration-stream` and `libxl-migration-stream` of Xen):
 *
 *     48 bytes and a config · libxl's header, 16 · records ... · END
 *                                                    └ libxc's headers, 24 + 16 · records ... · END
 *
 * A record is its type and its length, 32 bits each with the low byte first, and a body filled up to eight bytes. Pages
 * come in the order of their numbers; one that is lower than the last is the first of another round.
 */
export type ImageScan = {
  /** @returns how many of these bytes belong to the image: all of them, until its end. */
  readonly take: (chunk: Buffer) => number
  readonly isWhole: () => boolean
  /** How many rounds have begun. */
  readonly rounds: () => number
  /** The guest stands still: what only a guest that does is asked for has come. */
  readonly isPaused: () => boolean
}

/** What came is no image of Xen's. */
export class ImageInvalid extends Error {
  override readonly name = 'ImageInvalid'
}

/** @param from who writes it: libxl by itself leaves out what xl puts in front. */
export function imageScan(from: 'xl' | 'libxl' = 'xl'): ImageScan {
  const seen: Seen = { rounds: 0, page: -1n, isPaused: false }
  const story = from === 'xl' ? follow(seen) : followLibxl(seen)
  let wish = story.next(Buffer.alloc(0))
  let read: Buffer = Buffer.alloc(0)
  let skipped = 0

  /** @returns how many bytes it has used. */
  const feed = (bytes: Buffer): number => {
    if (wish.done === true) return 0
    const { count, isRead } = wish.value
    const used = bytes.subarray(0, count - (isRead ? read.length : skipped))
    if (isRead) read = Buffer.concat([read, used])
    else skipped += used.length
    if ((isRead ? read.length : skipped) === count) {
      const answer = read
      read = Buffer.alloc(0)
      skipped = 0
      wish = story.next(answer)
    }
    return used.length
  }
  return {
    take: (chunk) => {
      let at = 0
      while (wish.done !== true && at < chunk.length) at += feed(chunk.subarray(at))
      return at
    },
    isWhole: () => wish.done === true,
    rounds: () => seen.rounds,
    isPaused: () => seen.isPaused,
  }
}

type Seen = { rounds: number; page: bigint; isPaused: boolean }
type Wish = { readonly count: number; readonly isRead: boolean }
type Story = Generator<Wish, void, Buffer>

const bytes = (count: number): Wish => ({ count, isRead: true })
const MAGIC = Buffer.from('Xen saved domain, xl format\n \0 \r')
const HEAD_BYTES = 48
const CONFIG_BYTES_AT = 44
const LIBXL = Buffer.from('LibxlFmt')
const LIBXL_BYTES = 16
const LIBXC = Buffer.from('ffffffffffffffff58454e46', 'hex')
const LIBXC_BYTES = 24 + 16
const RECORD_BYTES = 8
const END = 0
/** In libxl's stream. */
const LIBXC_CONTEXT = 1
/** In libxc's. */
const PAGE_DATA = 1
/** How many pages, four bytes that are nothing, and the first of their numbers. */
const PAGES_HEAD_BYTES = 16
/** The processors' state: PV's in records of its own, everybody else's in one. */
const ofAPausedGuest = new Set([0x04, 0x05, 0x06, 0x07, 0x09, 0x0a, 0x0c])
/** Above it stands what kind of page it is. */
const PAGE_NUMBER_BITS = 52

function* follow(seen: Seen): Story {
  const head = yield bytes(HEAD_BYTES)
  expect(head, MAGIC, 'xl’s header')
  yield* skip(head.readUInt32LE(CONFIG_BYTES_AT))
  yield* followLibxl(seen)
}

function* followLibxl(seen: Seen): Story {
  expect(yield bytes(LIBXL_BYTES), LIBXL, 'libxl’s header')
  for (;;) {
    const { type, length } = recordIn(yield bytes(RECORD_BYTES))
    yield* skip(length)
    if (type === END) return
    if (type === LIBXC_CONTEXT) yield* followLibxc(seen)
  }
}

function* followLibxc(seen: Seen): Story {
  expect(yield bytes(LIBXC_BYTES), LIBXC, 'libxc’s header')
  for (;;) {
    const { type, length } = recordIn(yield bytes(RECORD_BYTES))
    if (type === PAGE_DATA && length >= PAGES_HEAD_BYTES) {
      const pages = yield bytes(PAGES_HEAD_BYTES)
      const page = BigInt.asUintN(PAGE_NUMBER_BITS, pages.readBigUInt64LE(8))
      if (seen.rounds === 0 || page <= seen.page) seen.rounds += 1
      seen.page = page
      yield* skip(length - PAGES_HEAD_BYTES)
    } else yield* skip(length)
    seen.isPaused ||= ofAPausedGuest.has(type)
    if (type === END) return
  }
}

function* skip(count: number): Story {
  if (count > 0) yield { count, isRead: false }
}

function recordIn(head: Buffer): { readonly type: number; readonly length: number } {
  const length = head.readUInt32LE(4)
  return { type: head.readUInt32LE(0), length: Math.ceil(length / 8) * 8 }
}

function expect(found: Buffer, wanted: Buffer, what: string): void {
  if (!found.subarray(0, wanted.length).equals(wanted))
    throw new ImageInvalid(`${what} is not what it should be: ${found.toString('hex')}`)
}

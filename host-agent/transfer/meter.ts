import { createHash } from 'node:crypto'
import type { Receipt } from './frames.ts'

/** Counts and digests an image as it passes: what both ends put on the receipt. */
export type Meter = {
  readonly add: (piece: Buffer) => void
  readonly bytes: () => number
  /** The receipt; nothing can be added behind it. */
  readonly close: () => Receipt
}

export function makeMeter(): Meter {
  const hash = createHash('sha256')
  let bytes = 0
  return {
    add: (piece) => {
      bytes += piece.length
      hash.update(piece)
    },
    bytes: () => bytes,
    close: () => ({ bytes, digest: hash.digest('hex') }),
  }
}

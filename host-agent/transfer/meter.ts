import { createCipheriv, hkdfSync } from 'node:crypto'
import type { Receipt } from './frames.ts'

/**
 * Counts and digests an image as it passes: what both ends put on the receipt.
 *
 * The digest is AES-128-GMAC (NIST SP 800-38D) under a key that is derived from the transfer's, and so used for this one
 * image. TLS has already made sure that nobody changed the stream; this finds what went wrong inside an agent, on the way
 * from and to its hypervisor. It costs an eighth of SHA-256, and the guest is paused while the last of it is computed.
 */
export type Meter = {
  readonly add: (piece: Buffer) => void
  readonly bytes: () => number
  /** The receipt; nothing can be added behind it. */
  readonly close: () => Receipt
}

const PURPOSE = 'ferry image digest 1'
const KEY_BYTES = 16
/** One image for each key: there is nothing for a nonce to tell apart. */
const NONCE = Buffer.alloc(12)

export function makeMeter(transferKey: Uint8Array): Meter {
  const key = Buffer.from(hkdfSync('sha256', transferKey, '', PURPOSE, KEY_BYTES))
  const mac = createCipheriv('aes-128-gcm', key, NONCE)
  let bytes = 0
  return {
    add: (piece) => {
      bytes += piece.length
      // Data that is authenticated and not encrypted: GCM without a plaintext is GMAC.
      mac.setAAD(piece)
    },
    bytes: () => bytes,
    close: () => {
      mac.final()
      return { bytes, digest: mac.getAuthTag().toString('hex') }
    },
  }
}

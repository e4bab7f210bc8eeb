import { createHmac } from 'node:crypto'
import type { Receipt } from './frames.ts'

/**
 * The receipt of an image that hypervisors moved by themselves. No agent saw it, so there is nothing to digest; what its
 * source says of it is authenticated instead, under the transfer's key, which Prepare sealed for that source alone.
 *
 * @param bytes as the source's hypervisor counted them.
 */
export function directReceipt(key: Uint8Array, transfer: string, bytes: number): Receipt {
  const said = JSON.stringify({ direct: transfer, bytes })
  const digest = createHmac('sha256', key).update(said).digest('hex').slice(0, DIGEST_DIGITS)
  return { bytes, digest }
}

const DIGEST_DIGITS = 32

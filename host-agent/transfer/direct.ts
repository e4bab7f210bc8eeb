import { createHmac } from 'node:crypto'
import type { Receipt } from './frames.ts'

/**
 * The receipt of an image that hypervisors moved by themselves. No agent saw it, so there is nothing to digest; what its
 * source says of it is authenticated instead, under the transfer's key, which Prepare sealed for that source alone.
 *
 * @param bytes as the source's hypervisor counted them.
 */
export const directReceipt = (key: Uint8Array, transfer: string, bytes: number): Receipt =>
  saidUnder(key, { direct: transfer, bytes })

/** The same of one that is not all there yet, and may be committed to. */
export const offerReceipt = (key: Uint8Array, transfer: string, bytes: number): Receipt =>
  saidUnder(key, { offer: transfer, bytes })

function saidUnder(
  key: Uint8Array,
  what: { readonly bytes: number; readonly direct?: string; readonly offer?: string },
): Receipt {
  const mac = createHmac('sha256', key).update(JSON.stringify(what))
  return { bytes: what.bytes, digest: mac.digest('hex').slice(0, DIGEST_DIGITS) }
}

const DIGEST_DIGITS = 32

import { Writable } from 'node:stream'
import { PAGE_BYTES } from './guest.ts'
import type { SimulatedGuest } from './guest.ts'

/**
 * A simulated guest's image: records of a page number and a page, and one last record with the state of its vCPU.
 * The page number of the last one is out of any guest's reach.
 */
const LAST_RECORD = 0xffff_ffff
const NUMBER_BYTES = 4
const PAGE_RECORD_BYTES = NUMBER_BYTES + PAGE_BYTES
const LAST_RECORD_BYTES = NUMBER_BYTES + 16

export function pageRecords(guest: SimulatedGuest, pages: readonly number[]): Buffer {
  const records = Buffer.allocUnsafe(pages.length * PAGE_RECORD_BYTES)
  pages.forEach((page, nth) => {
    const at = records.writeUInt32BE(page, nth * PAGE_RECORD_BYTES)
    guest.memory.copy(records, at, page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
  })
  return records
}

export function lastRecord({ cursor, written }: SimulatedGuest): Buffer {
  const record = Buffer.alloc(LAST_RECORD_BYTES)
  record.writeUInt32BE(LAST_RECORD, 0)
  record.writeDoubleBE(cursor, NUMBER_BYTES)
  record.writeDoubleBE(written, NUMBER_BYTES + 8)
  return record
}

/** Loads what is written to it; `isWhole` once the last record has come. */
export function loader(guest: SimulatedGuest): {
  readonly stream: Writable
  readonly isWhole: () => boolean
} {
  let rest: Buffer = Buffer.alloc(0)
  let isWhole = false
  const take = (chunk: Buffer) => {
    let bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    while (bytes.length >= NUMBER_BYTES) {
      if (isWhole) throw new Error('something came behind the last record')
      const number = bytes.readUInt32BE(0)
      const length = number === LAST_RECORD ? LAST_RECORD_BYTES : PAGE_RECORD_BYTES
      if (bytes.length < length) break
      if (number === LAST_RECORD) {
        guest.cursor = bytes.readDoubleBE(NUMBER_BYTES)
        guest.written = bytes.readDoubleBE(NUMBER_BYTES + 8)
        isWhole = true
      } else if ((number + 1) * PAGE_BYTES > guest.memory.length)
        throw new Error(`there is no page ${number}`)
      else bytes.copy(guest.memory, number * PAGE_BYTES, NUMBER_BYTES, length)
      bytes = bytes.subarray(length)
    }
    rest = Buffer.from(bytes)
  }
  const stream = new Writable({
    write: (chunk: Buffer, _, done) => {
      try {
        take(chunk)
        done()
      } catch (error) {
        done(error instanceof Error ? error : new Error(String(error)))
      }
    },
  })
  return { stream, isWhole: () => isWhole }
}

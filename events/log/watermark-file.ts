import { createHash } from 'node:crypto'
import { constants, writeSync } from 'node:fs'
import { mkdir, open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import { Type } from 'typebox'
import type { Static } from 'typebox'
import { parse } from '@ferry/schemas/parse'
import { Position } from '@ferry/schemas/words'
import type { Clock } from '../clock.ts'
import type { Say } from '../say.ts'
import { further } from '../watermark.ts'
import type { Mark, Watermark } from '../watermark.ts'

export const MarkWords = Type.Object({
  life: Position,
  position: Position,
  id: Type.String(),
  subject: Type.String(),
})

/** What stands in a slot: the higher number was written later. */
const Written = Type.Object({ number: Position, mark: MarkWords })
type Written = Static<typeof Written>

/** Longer than any mark: names are bounded, and so are ids. */
const SLOT_BYTES = 16 * 1024
const SLOTS = 2

/** What nobody waits for is written at most this often. */
const WRITE_EVERY_MS = 1000

/** Something was written there, and none of it can be read. */
export class WatermarkDamaged extends Error {
  override readonly name = 'WatermarkDamaged'

  constructor(path: string) {
    super(
      `${path} is damaged: how far the log was seen cannot be known. Compare the fleet with the log (ferry doctor --fleet), then remove the file`,
    )
  }
}

/**
 * A watermark in a file of two slots, which are written in turn: one that was torn by a power cut shows it by its
 * checksum, and the other one counts.
 *
 *     slot: sha256 of the JSON, a space, the JSON of a `Written` ⏎ whatever was longer before
 *
 * A guest may be waiting, so `keep` is a single write in place, and the disk is told to hold it while the guest is
 * being started. That is enough. A process that dies leaves its writes to the kernel, which keeps them. Only a power cut
 * loses them, and it ends the guests of this host too: what was forgotten that way started nothing that still runs.
 * Others hear of the start, and act on it, only after `sync`.
 */
export async function watermarkFile(
  path: string,
  edges: { readonly clock: Clock; readonly say: Say; readonly signal: AbortSignal },
): Promise<Watermark & { readonly close: () => Promise<void> }> {
  const { clock, say, signal } = edges
  const handle = await openFile(path)
  const written = await lastIn(handle, path)
  let mark: Mark | undefined = written?.mark
  let kept = mark
  let number = written?.number ?? 0
  /** Which write is on disk for certain, and which one the disk is told of at the moment. */
  let synced = number
  let syncing: Promise<void> | undefined
  let isPlanned = false
  let isClosed = false

  const keep = () => {
    if (mark === undefined || kept === mark) return
    const next = number + 1
    const slot = slotText({ number: next, mark })
    const count = writeSync(handle.fd, slot, 0, slot.length, (next % SLOTS) * SLOT_BYTES)
    if (count < slot.length) throw new Error(`${path} took ${count} of ${slot.length} bytes`)
    number = next
    kept = mark
  }
  /** One at a time; who comes while one is under way waits for the next one, which has it all. */
  const sync = async (): Promise<void> => {
    if (synced === number) return
    if (syncing !== undefined) {
      await syncing.catch(() => {})
      return sync()
    }
    syncing = syncOnce()
    await syncing
  }
  const syncOnce = async () => {
    const reached = number
    try {
      await handle.datasync()
      synced = reached
    } finally {
      syncing = undefined
    }
  }
  const keepSoon = async () => {
    if (isPlanned) return
    isPlanned = true
    await clock.sleep(WRITE_EVERY_MS, signal).catch(() => {})
    isPlanned = false
    if (isClosed) return
    try {
      keep()
      await sync()
    } catch (error) {
      say.error({ path, err: error }, 'the watermark cannot be written')
    }
  }
  return {
    present: () => mark,
    seen: (event) => {
      const next = further(mark, event)
      if (next === mark) return
      mark = next
      void keepSoon()
    },
    begin: (next) => {
      mark = next
      keep()
      return sync()
    },
    keep,
    sync,
    close: () => {
      isClosed = true
      return handle.close()
    },
  }
}

/** What stands in a file that nobody has open. @throws {WatermarkDamaged} */
export async function markIn(path: string): Promise<Mark | undefined> {
  const handle = await open(path).catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  })
  if (handle === undefined) return undefined
  try {
    return (await lastIn(handle, path))?.mark
  } finally {
    await handle.close()
  }
}

/** Made with its full size, so that a write in place changes nothing but its own bytes. */
async function openFile(path: string): Promise<FileHandle> {
  const folder = dirname(path)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const handle = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600)
  if ((await handle.stat()).size >= SLOTS * SLOT_BYTES) return handle
  await handle.write(Buffer.alloc(SLOTS * SLOT_BYTES), 0, undefined, 0)
  await handle.sync()
  const parent = await open(folder)
  try {
    await parent.sync()
  } finally {
    await parent.close()
  }
  return handle
}

async function lastIn(handle: FileHandle, path: string): Promise<Written | undefined> {
  const bytes = Buffer.alloc(SLOTS * SLOT_BYTES)
  await handle.read(bytes, 0, bytes.length, 0)
  const slots = Array.from({ length: SLOTS }, (_, nth) =>
    bytes.toString('utf8', nth * SLOT_BYTES, (nth + 1) * SLOT_BYTES),
  )
  const written = slots.flatMap((text) => writtenIn(text, path) ?? [])
  const [last] = written.toSorted((one, other) => other.number - one.number)
  // One torn slot beside an empty one: the first write of all was torn, and nobody had acted on anything.
  if (last === undefined && slots.every((text) => /[^\0]/.test(text)))
    throw new WatermarkDamaged(path)
  return last
}

function slotText(written: Written): Buffer {
  const json = JSON.stringify(written)
  const slot = Buffer.from(`${sha256(json)} ${json}\n`)
  if (slot.length > SLOT_BYTES) throw new RangeError(`${slot.length} bytes do not fit into a slot`)
  return slot
}

function writtenIn(text: string, path: string): Written | undefined {
  const [sum, json] = text.split('\n', 1).join().split(/ (.*)/s, 2)
  return json !== undefined && sum === sha256(json)
    ? parse(Written, JSON.parse(json), path)
    : undefined
}

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')

import { mkdir, open, readFile, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import { Type } from 'typebox'
import { parse } from '@ferry/schemas/parse'
import { Position } from '@ferry/schemas/words'
import type { Clock } from '../clock.ts'
import type { Say } from '../say.ts'
import { further } from '../watermark.ts'
import type { Mark, Watermark } from '../watermark.ts'

const MarkFile = Type.Object({
  life: Position,
  position: Position,
  id: Type.String(),
  subject: Type.String(),
})

/** What nobody waits for is written at most this often. */
const WRITE_EVERY_MS = 1000

/** A watermark in a file, which is there wholly or not at all, also after a power cut. */
export async function watermarkFile(
  path: string,
  edges: { readonly clock: Clock; readonly say: Say; readonly signal: AbortSignal },
): Promise<Watermark> {
  const { clock, say, signal } = edges
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  let mark = await markIn(path)
  let written = mark
  let writing: Promise<void> | undefined
  let isPlanned = false

  /** One write at a time; who asks while one is under way waits for the next one, which has it all. */
  const keep = async (): Promise<void> => {
    const wanted = mark
    if (written === wanted) return
    if (writing !== undefined) {
      await writing.catch(() => {})
      return keep()
    }
    writing = write(path, wanted)
    try {
      await writing
      written = wanted
    } finally {
      writing = undefined
    }
  }
  const keepSoon = () => {
    if (isPlanned) return
    isPlanned = true
    const later = clock.sleep(WRITE_EVERY_MS, signal).catch(() => {})
    void later
      .then(() => {
        isPlanned = false
        return keep()
      })
      .catch((error: unknown) => say.error({ path, err: error }, 'the watermark cannot be written'))
  }
  return {
    present: () => mark,
    seen: (event) => {
      const next = further(mark, event)
      if (next === mark) return
      mark = next
      keepSoon()
    },
    begin: (next) => {
      mark = next
      return keep()
    },
    keep,
  }
}

async function markIn(path: string): Promise<Mark | undefined> {
  try {
    return parse(MarkFile, JSON.parse(await readFile(path, 'utf8')), path)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

async function write(path: string, mark: Mark | undefined): Promise<void> {
  const handle = await open(`${path}.new`, 'w', 0o600)
  try {
    await handle.writeFile(JSON.stringify(mark))
    await handle.datasync()
  } finally {
    await handle.close()
  }
  await rename(`${path}.new`, path)
}

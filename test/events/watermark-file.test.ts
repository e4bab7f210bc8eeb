import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { watermarkFile } from '@ferry/events/log/watermark-file'
import { nothingIn } from '@ferry/events/watermark'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { silent } from '../fleet-in-process.ts'

const test = suite('a watermark in a file')

const event = (position: number) => ({ position, id: `event-${position}`, subject: 'ferry.x' })
const medianOf = (values: readonly number[]) =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0

type Opened = Awaited<ReturnType<typeof watermarkFile>>

/** A path, and how to open a watermark there as the next process would. */
async function withFile(work: (path: string, open: () => Promise<Opened>) => Promise<void>) {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-watermark-'))
  const stop = new AbortController()
  const path = join(folder, 'state', 'watermark')
  const opened: Opened[] = []
  const open = async () => {
    const edges = { clock: systemClock, say: silent, signal: stop.signal }
    const watermark = await watermarkFile(path, edges)
    opened.push(watermark)
    return watermark
  }
  try {
    await work(path, open)
  } finally {
    stop.abort()
    await Promise.all(opened.map((each) => each.close()))
    await rm(folder, { recursive: true })
  }
}

test('what was kept is there for the next one, and only a new life goes backwards', () =>
  withFile(async (_, open) => {
    const first = await open()
    assert.is(first.present(), undefined)
    await first.begin(nothingIn(2))
    first.seen(event(7))
    first.seen(event(5))
    first.keep()
    assert.equal((await open()).present(), { ...event(7), life: 2 })
    first.seen(event(8))
    first.keep()
    const second = await open()
    assert.equal(second.present(), { ...event(8), life: 2 })
    await second.begin(nothingIn(3))
    assert.equal((await open()).present(), nothingIn(3))
  }))

test('a torn slot falls back to the one before it, wherever it was torn', () =>
  withFile(async (path, open) => {
    const first = await open()
    await first.begin(nothingIn(1))
    first.seen(event(7))
    first.keep()
    const before = await readFile(path)
    first.seen(event(123_456))
    first.keep()
    await first.sync()
    const after = await readFile(path)
    const changed = [...after.keys()].filter((at) => after[at] !== before[at])
    const [from = 0, to = 0] = [changed[0], changed.at(-1)]
    for (let cut = from; cut < to; cut += 1) {
      await writeFile(path, Buffer.concat([after.subarray(0, cut + 1), before.subarray(cut + 1)]))
      const torn = await open()
      assert.is(torn.present()?.position, 7, `torn behind byte ${cut}`)
    }
  }))

test('the first write of all may be torn; a file of which nothing can be read is said', () =>
  withFile(async (path, open) => {
    const first = await open()
    await first.begin(nothingIn(1))
    const once = await readFile(path)
    await writeFile(path, Buffer.from(once).fill('x', once.length / 2))
    assert.is((await open()).present(), undefined)
    await writeFile(path, Buffer.from(once).fill('x'))
    const why = await open().then(
      () => 'it was taken',
      (error: Error) => error.message,
    )
    assert.match(why, `${path} is damaged`)
  }))

test('to keep it is a write in place, and the disk may take its time', () =>
  withFile(async (path, open) => {
    const watermark = await open()
    await watermark.begin(nothingIn(1))
    const { length } = await readFile(path)
    const [kept, synced]: [number[], number[]] = [[], []]
    for (let position = 1; position <= 200; position++) {
      watermark.seen(event(position))
      const began = systemClock.elapsed()
      watermark.keep()
      const written = systemClock.elapsed()
      await Promise.all([watermark.sync(), watermark.sync()])
      kept.push(written - began)
      synced.push(systemClock.elapsed() - written)
    }
    console.log(
      `  kept in ${(1000 * medianOf(kept)).toFixed(0)} µs, on disk ${medianOf(synced).toFixed(2)} ms later (medians of 200)`,
    )
    assert.is((await readFile(path)).length, length)
    assert.is((await open()).present()?.position, 200)
  }))

test.run()

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { watermarkFile } from '@ferry/events/log/watermark-file'
import { nothingIn } from '@ferry/events/watermark'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { silent } from '../fleet-in-process.ts'

const event = (position: number) => ({ position, id: `event-${position}`, subject: 'ferry.x' })

test('what was kept is there for the next one, and only a new life goes backwards', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-watermark-'))
  const stop = new AbortController()
  const edges = { clock: systemClock, say: silent, signal: stop.signal }
  const path = join(folder, 'state', 'watermark.json')
  try {
    const first = await watermarkFile(path, edges)
    assert.is(first.present(), undefined)
    await first.begin(nothingIn(2))
    first.seen(event(7))
    first.seen(event(5))
    const took: number[] = []
    for (let position = 8; position < 58; position++) {
      first.seen(event(position))
      const began = systemClock.elapsed()
      await Promise.all([first.keep(), first.keep()])
      took.push(systemClock.elapsed() - began)
    }
    const median = took.toSorted((a, b) => a - b)[25] ?? 0
    console.log(`  written down in ${median.toFixed(2)} ms (median of 50)`)
    const second = await watermarkFile(path, edges)
    assert.equal(second.present(), { ...event(57), life: 2 })
    await second.begin(nothingIn(3))
    assert.equal((await watermarkFile(path, edges)).present(), nothingIn(3))
  } finally {
    stop.abort()
    await rm(folder, { recursive: true })
  }
})

test.run()

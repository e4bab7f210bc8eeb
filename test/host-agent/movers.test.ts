import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock as clock } from '@ferry/events/clock'
import { watermarkFile } from '@ferry/events/log/watermark-file'
import { memoryWatermark } from '@ferry/events/watermark'
import type { Mark } from '@ferry/events/watermark'
import { openMovers } from '@ferry/host-agent/mover/movers'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { silent as say } from '../fleet-in-process.ts'

/** What an agent finds of the movers that its predecessor left. Those that live are in `real/chaos`. */
const test = suite('what a mover left')

const seenByAgent: Mark = { life: 1, position: 10, id: 'ten', subject: 'ferry.fact.rack1.web1.Ten' }
const { signal } = new AbortController()

/** A mover saw this and died; then the next agent begins. @returns how far that one has seen the log. */
async function found(seenByMover: Mark): Promise<Mark | undefined> {
  const stateDirectory = await mkdtemp(join(tmpdir(), 'ferry-movers-'))
  try {
    const folder = join(stateDirectory, 'movers', 'web1')
    await mkdir(folder, { recursive: true })
    const left = await watermarkFile(join(folder, 'watermark'), { clock, say, signal })
    await left.begin(seenByMover)
    await left.close()

    const watermark = memoryWatermark()
    await watermark.begin(seenByAgent)
    const settings = {
      host: 'rack1',
      servers: ['nats://127.0.0.1:4222'],
      stateDirectory,
      definitions: stateDirectory,
      driver: 'qemu' as const,
      listen: { host: '127.0.0.1', port: 0 },
    }
    const movers = await openMovers({ settings, logLevel: 'info', watermark, clock, say, signal })
    movers.letGo()
    assert.equal(await readdir(join(stateDirectory, 'movers')), [])
    return watermark.present()
  } finally {
    await rm(stateDirectory, { recursive: true })
  }
}

test('is remembered when it saw more of the log than its agent', async () => {
  const further = { ...seenByAgent, position: 20, id: 'twenty' }
  assert.equal(await found(further), further)
})

test('is not remembered when its agent saw more', async () => {
  assert.equal(await found({ ...seenByAgent, position: 5, id: 'five' }), seenByAgent)
})

test('is not remembered when it saw an earlier life of the log', async () => {
  assert.equal(await found({ ...seenByAgent, life: 0, position: 20, id: 'twenty' }), seenByAgent)
})

test.run()

import { mkdir, mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { systemClock as clock } from '@ferry/events/clock'
import { watermarkFile } from '@ferry/events/log/watermark-file'
import { memoryWatermark } from '@ferry/events/watermark'
import type { Mark } from '@ferry/events/watermark'
import { openDoor } from '@ferry/host-agent/mover/door'
import { openMovers } from '@ferry/host-agent/mover/movers'
import { reach } from '@ferry/host-agent/mover/reach'
import { openPort } from '@ferry/host-agent/transfer/port'
import { tlsWire } from '@ferry/host-agent/transfer/tls-wire'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { silent as say } from '../fleet-in-process.ts'
import { until } from '../until.ts'

/** What an agent finds of the movers that its predecessor left. Those that live are in `real/chaos`. */
const test = suite('what a mover left')

const seenByAgent: Mark = { life: 1, position: 10, id: 'ten', subject: 'ferry.fact.rack1.web1.Ten' }
const { signal } = new AbortController()

/** As much of an agent as keeps movers. Nobody answers where it looks for the log. */
async function agentIn(stateDirectory: string) {
  const watermark = memoryWatermark()
  await watermark.begin(seenByAgent)
  const settings = {
    host: 'rack1',
    servers: ['nats://127.0.0.1:1'],
    stateDirectory,
    definitions: stateDirectory,
    driver: 'qemu' as const,
    listen: { host: '127.0.0.1', port: 0 },
  }
  const movers = await openMovers({ settings, logLevel: 'error', watermark, clock, say, signal })
  return { movers, watermark }
}

/** A mover saw this and died; then the next agent begins. @returns how far that one has seen the log. */
async function found(seenByMover: Mark): Promise<Mark | undefined> {
  const stateDirectory = await mkdtemp(join(tmpdir(), 'ferry-movers-'))
  try {
    const folder = join(stateDirectory, 'movers', 'web1')
    await mkdir(folder, { recursive: true })
    const left = await watermarkFile(join(folder, 'watermark'), { clock, say, signal })
    await left.begin(seenByMover)
    await left.close()

    const { movers, watermark } = await agentIn(stateDirectory)
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

test('and cannot be read does not block its guest for longer than that', async () => {
  const stateDirectory = await mkdtemp(join(tmpdir(), 'ferry-movers-'))
  try {
    const folder = join(stateDirectory, 'movers', 'web1')
    // What is a folder cannot be read as a watermark.
    await mkdir(join(folder, 'watermark'), { recursive: true })
    const door = await openDoor(folder, Promise.resolve({ command: 'Perform' }), () => {})
    const { movers } = await agentIn(stateDirectory)
    await door.over('its answer')
    await until('it to be forgotten', () =>
      movers.stop('web1').then(
        () => true,
        () => false,
      ),
    )
    assert.equal(await readdir(folder), ['mover.pid', 'watermark'])
    movers.letGo()
  } finally {
    await rm(stateDirectory, { recursive: true })
  }
})

test('is not remembered when its agent saw more', async () => {
  assert.equal(await found({ ...seenByAgent, position: 5, id: 'five' }), seenByAgent)
})

test('is not remembered when it saw an earlier life of the log', async () => {
  assert.equal(await found({ ...seenByAgent, life: 0, position: 20, id: 'twenty' }), seenByAgent)
})

test.run()

const atHand = suite('a mover at hand')

const pidIn = async (folder: string): Promise<number> =>
  Number(await readFile(join(folder, 'mover.pid'), 'utf8').catch(() => ''))

/** @param act is given its folder as soon as it stands there which process it is. */
async function withOneAtHand(act: (folder: string) => Promise<void>): Promise<void> {
  const stateDirectory = await mkdtemp(join(tmpdir(), 'ferry-movers-'))
  const listen = { host: '127.0.0.1', port: 0 }
  const port = await openPort({ wire: tlsWire, listen, clock, refused: () => {} })
  const { movers } = await agentIn(stateDirectory)
  try {
    movers.open(port)
    let folder: string | undefined
    await until('a mover at hand', async () => {
      const [name] = await readdir(join(stateDirectory, 'movers'))
      folder = name && join(stateDirectory, 'movers', name)
      return folder !== undefined && (await pidIn(folder)) !== 0
    })
    if (folder !== undefined) await act(folder)
  } finally {
    movers.letGo()
    await port.close()
    await until('nothing to be left of it', async () => {
      const left = await readdir(join(stateDirectory, 'movers'))
      return left.length === 0
    })
    await rm(stateDirectory, { recursive: true })
  }
}

atHand('leaves nothing when its agent ends', () => withOneAtHand(async () => {}))

atHand('leaves nothing when it is killed', () =>
  withOneAtHand(async (folder) => {
    process.kill(await pidIn(folder), 'SIGKILL')
    await until('its folder to be gone', async () => {
      const left = await readdir(dirname(folder))
      return left.length === 0
    })
  }),
)

atHand('says what it does as soon as it is ordered to, also to one who came before', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-movers-'))
  try {
    let order: (given: { readonly command: string }) => void = () => {}
    const ordered = new Promise<{ readonly command: string }>((resolve) => {
      order = resolve
    })
    const door = await openDoor(folder, ordered, () => {})
    const reaching = reach(folder, clock)
    await door.visited
    order({ command: 'Perform' })
    assert.is((await reaching)?.command, 'Perform')
    await door.over(undefined)
  } finally {
    await rm(folder, { recursive: true })
  }
})

atHand.run()

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { systemClock, within } from '@ferry/events/clock'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ROOT, ferryAt } from './lab.ts'

const test = suite('the command line where no log is')

const NOWHERE = 'nats://127.0.0.1:1'

const wrong: readonly (readonly string[])[] = [
  ['completion', '--bogus'],
  ['coordinator', '--log-level', 'loud'],
  ['up', '--log-level', 'loud'],
  ['agent', '--config', 'host.json', '--log-level', 'loud'],
]
for (const words of wrong)
  test(`wrong words are named: ferry ${words.join(' ')}`, async () => {
    const { code, stderr } = await ferryAt(NOWHERE, ...words)
    assert.is(code, 2, stderr)
    assert.match(stderr, /^error: .*(loud|--bogus)/)
    assert.not.match(stderr, /\n\s+at /)
  })

test('a coordinator that waits for its log ends when it is told to', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-waits-'))
  const door = createServer((socket) => socket.destroy())
  door.listen(0, '127.0.0.1')
  await once(door, 'listening')
  const { port } = door.address() as AddressInfo
  const words = ['coordinator', '--server', `nats://127.0.0.1:${port}`, '--state', folder]
  const child = spawn(process.execPath, ['ferry.mjs', ...words], {
    cwd: ROOT,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  try {
    const ended = Promise.all([text(child.stderr), once(child, 'close')])
    await within(systemClock, 30_000, 'the coordinator at the door', once(door, 'connection'))
    child.kill('SIGTERM')
    const [stderr] = await within(systemClock, 30_000, 'its end', ended)
    assert.is(child.exitCode, 0, stderr)
    assert.is(stderr, '')
  } finally {
    child.kill('SIGKILL')
    door.close()
    await rm(folder, { recursive: true })
  }
})

test.run()

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '@ferry/coordinator/embedded/nats-server'
import { systemClock } from '@ferry/events/clock'
import { LogUnavailable } from '@ferry/events/log'
import { connect } from '@ferry/events/log/connect'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { requested } from './examples.ts'
import { natsWith } from '../nats-with.ts'
import { ferryAt } from '../real/lab.ts'

const test = suite('connecting to the log')

const PATIENCE_MS = 5000
/** The folder of one server. */
let folder: string

test.before.each(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ferry-connect-'))
})
test.after.each(() => rm(folder, { recursive: true }))

const USERS = `authorization { users: [ { user: ferry, password: secret } ] }`

/** Anybody may do everything but look at the log through a consumer. */
const NO_CONSUMERS = `
authorization { users: [ { user: any, password: any, permissions: { publish: { deny: "$JS.API.CONSUMER.>" } } } ] }
no_auth_user: any`

/** Well made, and of nobody that a server knows. */
const STRANGER = `-----BEGIN NATS USER JWT-----
eyJ0eXAiOiJKV1QifQ.e30.AAAA
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
SUAN5R3J3D6TSQ3QPBSKPPVXPR7TEOJ7TQM4IU6SX67OVG7JN6ZT3A3YTQ
------END USER NKEY SEED------
`

test('a server that asks for credentials says so at once, whether they are missing or wrong', async () => {
  const server = await natsWith(folder, USERS)
  try {
    const began = performance.now()
    const missing = await ferryAt(server.url, 'fleet')
    assert.is(missing.code, 2, missing.stderr)
    assert.match(missing.stderr, 'credentials')
    assert.match(missing.stderr, server.url)

    const file = join(folder, 'stranger.creds')
    await writeFile(file, STRANGER)
    const wrong = await ferryAt(server.url, 'fleet', '--credentials', file)
    assert.is(wrong.code, 2, wrong.stderr)
    assert.match(wrong.stderr, file)
    assert.ok(performance.now() - began < 2 * PATIENCE_MS, 'they waited for what will not change')
  } finally {
    await server.stop()
  }
})

test('a file of credentials that is missing, or is none, is named', async () => {
  const nowhere = await ferryAt('nats://127.0.0.1:1', 'fleet', '--credentials', '/no/such.creds')
  assert.is(nowhere.code, 2, nowhere.stderr)
  assert.match(nowhere.stderr, '/no/such.creds')
  const file = join(folder, 'none.creds')
  await writeFile(file, 'nothing of that kind')
  const none = await ferryAt('nats://127.0.0.1:1', 'fleet', '--credentials', file)
  assert.is(none.code, 2, none.stderr)
  assert.match(none.stderr, file)
})

test('a read that the server does not allow ends, as one of a silent log does', async () => {
  const server = await natsWith(folder, NO_CONSUMERS)
  try {
    const options = { create: { replicas: 1 } }
    const connection = await connect({ servers: [server.url], name: 'one' }, systemClock, options)
    await connection.log.append(requested({ after: 0 }))
    await connection.close()
    const answer = await ferryAt(server.url, 'explain', 'm1')
    assert.is(answer.code, 4, answer.stderr)
  } finally {
    await server.stop()
  }
})

/** Machines that take a connection and never say a word. */
async function withDead(count: number, work: (urls: readonly string[]) => Promise<void>) {
  const visitors = new Set<Socket>()
  const servers = Array.from({ length: count }, () =>
    createServer((visitor) => void visitors.add(visitor.on('error', () => {}))),
  )
  const ports = await Promise.all(
    servers.map(async (server) => {
      const port = await freePort()
      await new Promise<void>((resolve) => {
        server.listen(port, '127.0.0.1', resolve)
      })
      return port
    }),
  )
  try {
    await work(ports.map((port) => `nats://127.0.0.1:${port}`))
  } finally {
    for (const visitor of visitors) visitor.destroy()
    for (const server of servers) server.close()
  }
}

test('one dead server of several does not keep anybody from the others', async () => {
  const server = await natsWith(folder, '')
  try {
    await withDead(1, async (dead) => {
      const servers = [...dead, server.url]
      const options = { create: { replicas: 1 }, patienceMs: PATIENCE_MS }
      // Which of them is asked first is drawn.
      for (let times = 0; times < 4; times++) {
        const began = performance.now()
        const connection = await connect({ servers, name: 'one' }, systemClock, options)
        await connection.close()
        assert.ok(performance.now() - began < PATIENCE_MS, 'it waited for the dead one')
      }
    })
  } finally {
    await server.stop()
  }
})

test('where all are dead the patience is kept', () =>
  withDead(3, async (servers) => {
    const began = performance.now()
    try {
      await connect({ servers, name: 'one' }, systemClock, { patienceMs: PATIENCE_MS })
      assert.unreachable('it connected')
    } catch (error) {
      assert.instance(error, LogUnavailable)
    }
    assert.ok(performance.now() - began < 2 * PATIENCE_MS)
  }))

test.run()

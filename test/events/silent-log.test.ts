import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort, startNatsServer } from '@ferry/coordinator/embedded/nats-server'
import type { NatsServer } from '@ferry/coordinator/embedded/nats-server'
import { systemClock, within } from '@ferry/events/clock'
import { LogUnavailable } from '@ferry/events/log'
import type { Log } from '@ferry/events/log'
import { connect } from '@ferry/events/log/connect'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { appendAll, longLog } from '../long-log.ts'

const test = suite('a log that falls silent while it is read')

/** More than a consumer holds ready, so that some of them are still at the server. */
const LENGTH = 3000
const PATIENCE_MS = 1500
const LIMIT_MS = 20_000

type Stage = {
  readonly log: Log
  readonly close: () => Promise<void>
  readonly server: () => NatsServer
  readonly startAgain: () => Promise<void>
}

async function withLog(work: (stage: Stage) => Promise<void>): Promise<void> {
  const dataDirectory = await mkdtemp(join(tmpdir(), 'ferry-silent-'))
  const start = { dataDirectory, port: await freePort() }
  let server = await startNatsServer(start)
  const connection = await connect({ servers: [server.url], name: 'reader' }, systemClock, {
    create: { replicas: 1 },
  })
  try {
    await appendAll(connection.log, longLog(LENGTH))
    const startAgain = async () => {
      server = await startNatsServer(start)
    }
    const { log, close } = connection
    await work({ log, close, server: () => server, startAgain })
  } finally {
    await connection.close()
    await server.stop()
    await rm(dataDirectory, { recursive: true })
  }
}

/** Reads all of it, and does something when it has read the first entry. */
async function reading(log: Log, patienceMs: number, atFirst: () => Promise<void>) {
  const positions: number[] = []
  const read = async () => {
    for await (const { position } of log.read({ after: 0, patienceMs })) {
      positions.push(position)
      if (positions.length === 1) await atFirst()
    }
    return positions
  }
  return within(systemClock, LIMIT_MS, 'the end of the read', read())
}

async function isUnavailable(read: Promise<unknown>): Promise<void> {
  try {
    await read
    assert.unreachable('it was read to its end')
  } catch (error) {
    assert.instance(error, LogUnavailable)
  }
}

test('ends the read of who has only so much patience when its server has died', () =>
  withLog(async ({ log, server }) => {
    await isUnavailable(reading(log, PATIENCE_MS, () => server().stop('SIGKILL')))
    // And a read that begins when it is away already.
    await isUnavailable(reading(log, PATIENCE_MS, async () => {}))
  }))

test('ends it when its server is frozen', () =>
  withLog(async ({ log, server }) => {
    const freeze = async () => void process.kill(server().pid, 'SIGSTOP')
    await isUnavailable(reading(log, PATIENCE_MS, freeze))
  }))

test('never passes for a shorter one when its reader closes the connection', () =>
  withLog(async ({ log, close }) => {
    await isUnavailable(reading(log, LIMIT_MS, close))
    // And a read that begins behind that.
    await isUnavailable(reading(log, LIMIT_MS, async () => {}))
  }))

test('nor when its reader stops it', () =>
  withLog(async ({ log }) => {
    const stop = new AbortController()
    const read = async () => {
      for await (const entry of log.read({ after: 0, signal: stop.signal }))
        if (entry.position === 1) stop.abort(new Error('stopped'))
    }
    try {
      await within(systemClock, LIMIT_MS, 'the end of the read', read())
      assert.unreachable('it was read to its end')
    } catch (error) {
      assert.is(error, stop.signal.reason)
    }
  }))

test('is read to its end when it comes back in time', () =>
  withLog(async ({ log, server, startAgain }) => {
    const positions = await reading(log, LIMIT_MS, async () => {
      await server().stop('SIGKILL')
      await startAgain()
    })
    assert.equal(
      positions,
      Array.from({ length: LENGTH }, (_, nth) => nth + 1),
    )
  }))

test('does not tire who takes long for an entry', () =>
  withLog(async ({ log }) => {
    const positions = await reading(log, PATIENCE_MS, () => systemClock.sleep(PATIENCE_MS * 1.5))
    assert.is(positions.length, LENGTH)
  }))

test.run()

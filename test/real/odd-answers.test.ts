import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startNatsServer } from '@ferry/coordinator/embedded/nats-server'
import { refused } from '@ferry/coordinator/refused'
import { systemClock } from '@ferry/events/clock'
import { connect } from '@ferry/events/log/connect'
import { serve } from '@ferry/events/log/requests'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ferryAt } from './lab.ts'

/** The command line, and a coordinator that answers as none of this release would. */
const test = suite('an answer out of the ordinary')

async function answered(answers: { readonly [verb: string]: object }, ...words: string[]) {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-odd-'))
  const server = await startNatsServer({ dataDirectory: folder })
  try {
    const address = { servers: [server.url], name: 'odd' }
    const connection = await connect(address, systemClock, { create: {} })
    const verbs = Object.entries(answers).map(([verb, answer]) => [
      verb,
      { description: verb, answer: async () => answer },
    ])
    const about = { version: '9.9.9', description: 'of another release' }
    await serve(connection.nc, about, Object.fromEntries(verbs))
    try {
      return await ferryAt(server.url, ...words)
    } finally {
      await connection.close()
    }
  } finally {
    await server.stop('SIGKILL')
    await rm(folder, { recursive: true })
  }
}

test('that does not fit is no mistake of who asked', async () => {
  const { code, stderr } = await answered({ fleet: { position: 'far' } }, 'fleet')
  assert.is(code, 1, stderr)
  assert.match(stderr, /^The coordinator's answer to fleet was not understood: .*\n$/)
})

test('that refuses to say how a migration goes is printed as a refusal', async () => {
  const migrate = { accepted: true, id: 'm1', position: 7 }
  const status = refused({ type: 'UnknownMigration', migration: 'm1' })
  const { code, stderr } = await answered({ migrate, status }, 'migrate', 'web1', '--wait')
  assert.is(code, 3, stderr)
  assert.is(stderr, 'There is no migration m1.\n')
})

test.run()

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startNatsServer } from '@ferry/coordinator/embedded/nats-server'
import { systemClock } from '@ferry/events/clock'
import { connect } from '@ferry/events/log/connect'
import { serve } from '@ferry/events/log/requests'
import type { Verbs } from '@ferry/events/log/requests'

/** A log, and a program beside it that answers as it is told: what a coordinator of another release may be. */
export async function withStandIn<T>(
  answers: { readonly [verb: string]: Verbs[string]['answer'] },
  work: (server: string) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-stand-in-'))
  const server = await startNatsServer({ dataDirectory: folder })
  try {
    const address = { servers: [server.url], name: 'stand-in' }
    const connection = await connect(address, systemClock, { create: {} })
    const verbs = Object.entries(answers).map(([verb, answer]) => [
      verb,
      { description: verb, answer },
    ])
    const about = { version: '9.9.9', description: 'of another release' }
    await serve(connection.nc, about, Object.fromEntries(verbs))
    try {
      return await work(server.url)
    } finally {
      await connection.close()
    }
  } finally {
    await server.stop('SIGKILL')
    await rm(folder, { recursive: true })
  }
}

import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { connect } from '@ferry/events/log/connect'
import { sayOnStderr } from '@ferry/events/say'
import { memoryWatermark } from '@ferry/events/watermark'
import { runAgent } from '@ferry/host-agent/agent'
import { simulatedDriver } from '@ferry/host-agent/drivers/simulated/driver'
import type { SimulatedHost } from '@ferry/host-agent/drivers/simulated/driver'
import { PAGE_BYTES, catchUp } from '@ferry/host-agent/drivers/simulated/guest'
import { hostKey } from '@ferry/host-agent/keys'
import { tlsWire } from '@ferry/host-agent/transfer/tls-wire'
import { firstBytesOf, sweepFault } from '../guest/memory.ts'
import { openLab } from '../real/lab.ts'
import { until } from '../until.ts'
import type { Stage } from './stage.ts'

const guest = { memoryMiB: 64, pagesPerSecond: 20_000 }

/** The same without a hypervisor: the agents run in this process, and their simulated guests can be looked at here. */
export async function simulatedStage(port: number): Promise<Stage> {
  const lab = await openLab({ hosts: [], driver: 'simulated', port })
  const stop = new AbortController()
  const worlds = new Map<string, SimulatedHost>()
  const agents: Promise<void>[] = []
  const close = async () => {
    stop.abort()
    await Promise.all(agents)
    await lab.close()
  }
  try {
    for (const host of ['rack1', 'rack2']) {
      const world = { guests: new Map(), memoryBytes: 2 ** 30, definitionOf: async () => guest }
      worlds.set(host, world)
      agents.push(agentIn(lab.folder, host, lab.server(), world, stop.signal))
    }
    await until('both hosts to be alive', async () => {
      const { hosts } = await lab.fleet()
      return hosts.filter(({ isAlive }) => isAlive).length === worlds.size
    })
    await lab.start('web1', 'rack1')
  } catch (error) {
    await close()
    throw error
  }
  return {
    lab,
    description: `simulated, with ${guest.memoryMiB} MiB, of which it writes ${guest.pagesPerSecond} pages a second`,
    look: async () => {
      const copies = [...worlds].flatMap(([host, { guests }]) =>
        [...guests.values()].map((copy) => ({ host, copy })),
      )
      const [only] = copies
      if (only === undefined || copies.length !== 1 || only.copy.state !== 'running')
        throw new Error(`There are ${copies.length} copies of web1.`)
      const { host, copy } = only
      catchUp(copy, systemClock)
      return {
        host,
        fault: sweepFault(firstBytesOf(copy.memory, PAGE_BYTES)),
        pages: copy.memory.length / PAGE_BYTES,
        count: copy.written,
        unit: 'writes',
      }
    },
    close,
  }
}

async function agentIn(
  folder: string,
  host: string,
  server: string,
  world: SimulatedHost,
  signal: AbortSignal,
): Promise<void> {
  const connection = await connect({ servers: [server], name: `agent ${host}` }, systemClock, {
    patienceMs: 30_000,
    signal,
  })
  try {
    await runAgent({
      watermark: memoryWatermark(),
      host,
      log: connection.log,
      heartbeats: connection.heartbeats,
      clock: systemClock,
      say: sayOnStderr(`agent ${host}`, 'warn'),
      driver: simulatedDriver(world, systemClock),
      key: await hostKey(join(folder, `${host}.key`)),
      wire: tlsWire,
      random: randomBytes,
      transfers: { listen: { host: '127.0.0.1', port: 0 } },
      signal,
    })
  } finally {
    await connection.close()
  }
}

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startNatsServer } from '@ferry/coordinator/embedded/nats-server'
import { systemClock } from '@ferry/events/clock'
import { connect } from '@ferry/events/log/connect'
import { memoryLog } from '@ferry/events/log/in-memory'
import { memoryRegisters } from '@ferry/events/log/in-memory-registers'
import { registerSnapshots } from '@ferry/events/log/register-snapshots'
import { logContract } from '../contract/log.ts'
import { registersContract } from '../contract/registers.ts'
import { snapshotsContract } from '../contract/snapshots.ts'

logContract('in memory', async () => {
  const log = memoryLog(systemClock)
  return {
    log,
    other: log,
    inject: async (subject, body) => log.inject(subject, body),
    close: async () => {},
  }
})

logContract('on JetStream', async () => {
  const { one, two, close } = await twoConnections()
  return {
    log: one.log,
    other: two.log,
    inject: async (subject, body) => {
      await one.nc.request(subject, body)
    },
    close,
  }
})

registersContract('in memory', async () => {
  const registers = memoryRegisters(systemClock)
  return { registers, other: registers, close: async () => {} }
})

registersContract('in a NATS bucket', async () => {
  const { one, two, close } = await twoConnections()
  return { registers: one.leases, other: two.leases, close }
})

snapshotsContract('in memory', async () => {
  const registers = memoryRegisters(systemClock)
  const snapshots = registerSnapshots(registers, 'this fold')
  return {
    snapshots,
    other: snapshots,
    spoil: (key, value) => registers.put(key, value),
    close: async () => {},
  }
})

snapshotsContract('in a NATS bucket', async () => {
  const { one, two, close } = await twoConnections()
  return {
    snapshots: await one.snapshots(),
    other: await two.snapshots(),
    spoil: async (key, value) => void (await one.nc.request(`$KV.ferry_snapshots.${key}`, value)),
    close,
  }
})

async function twoConnections() {
  const dataDirectory = await mkdtemp(join(tmpdir(), 'ferry-log-'))
  const server = await startNatsServer({ dataDirectory })
  const open = (name: string) =>
    connect({ servers: [server.url], name }, systemClock, { create: { replicas: 1 } })
  const [one, two] = [await open('one'), await open('two')]
  const close = async () => {
    await one.close()
    await two.close()
    await server.stop()
    await rm(dataDirectory, { recursive: true })
  }
  return { one, two, close }
}

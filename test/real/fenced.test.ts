import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { connect } from '@ferry/events/log/connect'
import { memoryWatermark } from '@ferry/events/watermark'
import { runAgent } from '@ferry/host-agent/agent'
import { qemuDriver } from '@ferry/host-agent/drivers/qemu/driver'
import { probeQemu } from '@ferry/host-agent/drivers/qemu/probe'
import { hostKey } from '@ferry/host-agent/keys'
import { readHostFile } from '@ferry/host-agent/settings'
import { tlsWire } from '@ferry/host-agent/transfer/tls-wire'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { silent } from '../fleet-in-process.ts'
import { busyGuest } from '../guest/boot-sector.ts'
import { until } from '../until.ts'
import { withLab } from './lab.ts'
import type { Lab } from './lab.ts'

const test = suite('a fence, with real guests')

/** The agent of a host in this process, whose end falls between the guest's start and the word for it. */
async function agentThatDies(lab: Lab, host: string) {
  const { stateDirectory, definitions, listen } = await readHostFile(
    join(lab.folder, `${host}.json`),
  )
  const clock = systemClock
  const binary = 'qemu-system-x86_64'
  const memoryBytes = 2 * 1024 ** 3
  const facts = await probeQemu({ binary, accelerators: ['tcg'], memoryBytes, clock })
  const guests = join(stateDirectory, 'guests')
  const driver = qemuDriver({ binary, guests, definitions, facts, clock })
  const key = await hostKey(join(stateDirectory, 'host.key'))
  const { log, heartbeats, close } = await connect({ servers: [lab.server()], name: host }, clock, {
    patienceMs: 30_000,
  })
  const stop = new AbortController()
  const edges = { host, log, heartbeats, clock, say: silent, key, signal: stop.signal }
  const ended = runAgent({
    ...edges,
    watermark: memoryWatermark(),
    wire: tlsWire,
    random: randomBytes,
    transfers: { listen },
    driver: {
      ...driver,
      activate: async (vm) => {
        await driver.activate(vm)
        stop.abort()
        throw new Error('the agent dies here')
      },
    },
  })
  try {
    await ended
  } finally {
    await close()
  }
}

test('a host that is given up for lost comes back, and one whole guest is left', () =>
  withLab({ hosts: ['rack1', 'rack2'], driver: 'qemu' }, async (lab) => {
    await lab.defineGuest('web1', { program: busyGuest, memoryMiB: 256 })
    await lab.start('web1', 'rack1')
    await lab.agent('rack2').end()
    const dying = agentThatDies(lab, 'rack2')
    await until('rack2 to be alive', async () =>
      (await lab.fleet()).hosts.every(({ isAlive }) => isAlive),
    )
    const answer = await lab.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    assert.ok(answer.accepted, JSON.stringify(answer))
    await dying

    await until('the host to count as lost', async () => {
      const { code, stderr } = await lab.ferry('resolve', 'm1', '--fenced', 'rack2')
      if (code === 3)
        assert.match(stderr, /The agent of rack2 is alive|cannot say yet that rack2 is silent/)
      else assert.is(code, 0, stderr)
      return code === 0
    })
    const states = async () =>
      (await lab.qemus()).map(({ folder, status }) => `${folder.split('/').at(-3)} ${status}`)
    // Nobody has turned anything off here: this is what comes back from the dead. It holds the disk's lock, so QEMU does
    // not let the source's copy run beside it.
    await until('the source to be turned away', async () =>
      (await lab.agent('rack1').log()).includes('write\\" lock'),
    )
    assert.equal((await states()).toSorted(), ['rack1 postmigrate', 'rack2 running'])

    lab.agent('rack2').start()
    await until(
      'the stale copy to end, and the source to go on',
      async () => (await states()).join() === 'rack1 running',
    )
    assert.is((await lab.memory('web1', busyGuest)).fault, undefined)
    assert.is((await lab.ended('m1')).phase, 'abandoned')
    const { stdout } = await lab.ferry('explain', 'm1')
    assert.match(stdout, 'rack2 was fenced by')
  }))

test.run()

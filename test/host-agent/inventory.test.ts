import type { EventOf } from '@ferry/schemas/event'
import { systemClock, timestamp } from '@ferry/events/clock'
import { defaultRules } from '@ferry/coordinator/decide/world'
import type { World } from '@ferry/coordinator/decide/world'
import { emptyFleet, replay } from '@ferry/events/fleet'
import type { Log } from '@ferry/events/log'
import { memoryLog } from '@ferry/events/log/in-memory'
import { memoryRegisters } from '@ferry/events/log/in-memory-registers'
import { hostSubject } from '@ferry/events/subjects'
import { simulatedDriver } from '@ferry/host-agent/drivers/simulated/driver'
import { reportInventory } from '@ferry/host-agent/inventory'
import { journal as makeJournal } from '@ferry/host-agent/journal'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { fleetText } from '@ferry/coordinator/cli/fleet'
import { fleetView } from '@ferry/coordinator/views'
import { silent } from '../fleet-in-process.ts'
import { until } from '../until.ts'

/** What a host says of itself, and when it has to say it again. */
const test = suite('an inventory')

/** Far less than the time after which an agent looks again anyway. */
const SOON_MS = 10_000

const aWorld: World = {
  now: 0,
  alive: new Set(['rack1']),
  listenedMs: 60_000,
  known: new Set(['rack1']),
  canFence: new Set(),
  rules: defaultRules,
  me: { coordinator: 'one' },
}

const edgesOf = (log: Log, signal: AbortSignal) => ({
  host: 'rack1',
  log,
  heartbeats: memoryRegisters(systemClock),
  clock: systemClock,
  say: silent,
  facts: {
    address: { host: '127.0.0.1', port: 7000 },
    key: `X${'A'.repeat(55)}`,
    agentVersion: '0.1.0',
    transferVersion: 2,
  },
  stopped: async () => undefined,
  signal,
})

test('is made again when a word of its host stands before it that it did not know of', async () => {
  const log = memoryLog(systemClock)
  const definitionOf = async () => ({ memoryMiB: 1, pagesPerSecond: 100 })
  const world = { guests: new Map(), memoryBytes: 64 * 1024 ** 2, definitionOf }
  const driver = simulatedDriver(world, systemClock)
  const begun = await driver.start('web1')
  assert.ok('needs' in begun)

  const over = new AbortController()
  const journal = makeJournal((position) => reporter.noted(position))
  const reporter = reportInventory({
    ...edgesOf(log, over.signal),
    driver,
    upTo: async () => journal.upTo(),
  })
  const last = async (): Promise<EventOf<'HostReported'>['data'] | undefined> => {
    const message = (await log.last(hostSubject('rack1')))?.message
    return message?.is === 'event' && message.event.type === 'HostReported'
      ? message.event.data
      : undefined
  }
  try {
    await until('web1 to be seen', async () => (await last())?.guests[0]?.vm === 'web1', SOON_MS)

    // The host speaks of its guest, and does not know yet that its word is stored.
    const event: EventOf<'GuestStarted'> = {
      type: 'GuestStarted',
      id: 's1.GuestStarted',
      writer: { host: 'rack1' },
      time: timestamp(systemClock.now()),
      vm: 'web1',
      causationid: 's1.Start.1',
      data: { start: 's1', needs: begun.needs },
    }
    const { position } = await log.append(event)
    await driver.release('web1')
    await until('web1 to be gone', async () => (await last())?.guests.length === 0, SOON_MS)
    assert.is((await last())?.asOf, 0, 'so it does not count for web1')

    journal.note({
      position,
      storedAt: systemClock.now(),
      subject: '',
      message: { is: 'event', event },
    })
    await until('it to be said again', async () => (await last())?.asOf === position, SOON_MS)
  } finally {
    over.abort()
    await reporter.reporting
  }
})

test('says why a running guest may not leave, where its hypervisor can tell', async () => {
  const log = memoryLog(systemClock)
  const definitionOf = async () => ({ memoryMiB: 1, pagesPerSecond: 100 })
  const world = { guests: new Map(), memoryBytes: 64 * 1024 ** 2, definitionOf }
  const driver = simulatedDriver(world, systemClock)
  for (const vm of ['web1', 'web2']) assert.ok('needs' in (await driver.start(vm)))

  const fleet = emptyFleet()
  const unmovable = { type: 'StartsByItself', vm: 'web2' } as const
  const over = new AbortController()
  const reporter = reportInventory({
    ...edgesOf(log, over.signal),
    driver: {
      ...driver,
      foresee: async (vms) => new Map(vms.slice(1).map((vm) => [vm, unmovable])),
    },
    upTo: async () => 0,
  })
  try {
    await reporter.reported
    await replay(log.read({ after: 0 }), fleet)
    const view = fleetView(fleet, aWorld)
    const { guests } = view
    assert.equal(
      guests.map(({ vm, copies }) => [vm, copies[0]?.unmovable]),
      [
        ['web1', undefined],
        ['web2', unmovable],
      ],
    )
    const { sentence = '' } = guests[1]?.copies[0] ?? {}
    assert.match(sentence, 'web2')
    const lines = fleetText(view).split('\n')
    assert.match(lines.find((line) => line.startsWith('web1')) ?? '', 'rack1 (running)')
    const told = `rack1 (running; cannot leave: ${sentence})`
    assert.match(lines.find((line) => line.startsWith('web2')) ?? '', told)
  } finally {
    over.abort()
    await reporter.reporting
  }
})

test.run()

import type { EventOf } from '@ferry/schemas/event'
import { systemClock, timestamp } from '@ferry/events/clock'
import { memoryLog } from '@ferry/events/log/in-memory'
import { memoryRegisters } from '@ferry/events/log/in-memory-registers'
import { hostSubject } from '@ferry/events/subjects'
import { simulatedDriver } from '@ferry/host-agent/drivers/simulated/driver'
import { reportInventory } from '@ferry/host-agent/inventory'
import { journal as makeJournal } from '@ferry/host-agent/journal'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { silent } from '../fleet-in-process.ts'
import { until } from '../until.ts'

/** What a host says of itself, and when it has to say it again. */
const test = suite('an inventory')

/** Far less than the time after which an agent looks again anyway. */
const SOON_MS = 10_000

test('is made again when a word of its host stands before it that it did not know of', async () => {
  const log = memoryLog(systemClock)
  const definitionOf = async () => ({ memoryMiB: 1, pagesPerSecond: 100 })
  const world = { guests: new Map(), memoryBytes: 64 * 1024 ** 2, definitionOf }
  const driver = simulatedDriver(world, systemClock)
  const begun = await driver.start('web1')
  assert.ok('needs' in begun)

  const over = new AbortController()
  const journal = makeJournal((position) => reporter.noted(position))
  const address = { host: '127.0.0.1', port: 7000 }
  const key = `X${'A'.repeat(55)}`
  const facts = { address, key, agentVersion: '0.1.0', transferVersion: 2 }
  const reporter = reportInventory({
    host: 'rack1',
    log,
    heartbeats: memoryRegisters(systemClock),
    clock: systemClock,
    say: silent,
    driver,
    facts,
    upTo: async () => journal.upTo(),
    stopped: async () => undefined,
    signal: over.signal,
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

test.run()

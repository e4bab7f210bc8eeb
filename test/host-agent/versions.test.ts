import { judgeStart } from '@ferry/coordinator/decide/request'
import type { Log } from '@ferry/events/log'
import type { Entry } from '@ferry/events/entry'
import type { MemoryLog } from '@ferry/events/log/in-memory'
import { subjectOf } from '@ferry/events/subjects'
import type { Driver } from '@ferry/host-agent/driver'
import type { Wire } from '@ferry/host-agent/transfer/wire'
import { encode } from '@ferry/schemas/cloud-event'
import type { Event, EventOf, Writer } from '@ferry/schemas/event'
import type { MessageName } from '@ferry/schemas/messages'
import type { HostRefusal } from '@ferry/schemas/refusal'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { withFleet } from '../fleet-in-process.ts'
import type { FleetInProcess } from '../fleet-in-process.ts'
import { until } from '../until.ts'

/** Coordinator and agents of different releases, of which those to come are made up here. */
const test = suite('releases that differ')

const two = ['rack1', 'rack2']
const versions = (lowest: number, highest: number) => ({ lowest, highest })
type Ranges = readonly [source: ReturnType<typeof versions>, target: ReturnType<typeof versions>]
const of =
  ([source, target]: Ranges) =>
  (host: string) =>
    host === 'rack1' ? source : target

async function said<Name extends MessageName>(
  { log }: FleetInProcess,
  name: Name,
): Promise<EventOf<Name>> {
  for await (const { message } of log.read({ after: 0 }))
    if (message.is === 'event' && message.event.type === name) return message.event as EventOf<Name>
  throw new Error(`${name} is not in the log`)
}

/** Sends web1 from rack1 to rack2, and says why it did not get there. */
async function refusalOf(fleet: FleetInProcess): Promise<HostRefusal | undefined> {
  await fleet.start('web1', 'rack1')
  await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
  const { phase, end } = await fleet.ended('m1')
  if (phase === 'completed') return undefined
  if (end?.cause?.type !== 'Refused') throw new Error(JSON.stringify(end))
  assert.is(fleet.hosts.get('rack1')?.world.guests.get('web1')?.state, 'running')
  assert.is(fleet.hosts.get('rack2')?.world.guests.size, 0)
  return end.cause.refusal
}

const meeting: readonly [string, Ranges, number][] = [
  ['both are new', [versions(1, 2), versions(1, 2)], 2],
  ['the target is older', [versions(1, 3), versions(1, 2)], 2],
  ['the source is older', [versions(1, 1), versions(1, 2)], 1],
]
for (const [when, ranges, chosen] of meeting)
  test(`${when}: the stream has the lower version, and it stands in the log`, async () => {
    const streams: number[] = []
    const wires = (wire: Wire): Wire => ({
      ...wire,
      connect: (ticket, signal) => {
        streams.push(ticket.version)
        return wire.connect(ticket, signal)
      },
    })
    await withFleet(two, { transferVersions: of(ranges), wires }, async (fleet) => {
      assert.is(await refusalOf(fleet), undefined)
      const { transferVersion, lowestTransferVersion } = (await said(fleet, 'MigrationBegun')).data
      assert.equal(versions(lowestTransferVersion ?? 0, transferVersion), ranges[0])
      assert.is((await said(fleet, 'TargetPrepared')).data.transferVersion, chosen)
      assert.equal(streams, [chosen])
    })
  })

const apart: readonly [string, Ranges, { offered: number; supported: number }][] = [
  ['the target is too old', [versions(3, 4), versions(1, 2)], { offered: 3, supported: 2 }],
  ['the source is too old', [versions(1, 2), versions(3, 4)], { offered: 2, supported: 3 }],
]
for (const [when, ranges, numbers] of apart) {
  test(`${when} for the stream: refused with both numbers, and the guest runs on`, () =>
    withFleet(two, { transferVersions: of(ranges) }, async (fleet) => {
      assert.equal(await refusalOf(fleet), { type: 'TransferVersionUnsupported', ...numbers })
    }))

  test(`${when} for the definition: the same`, () => {
    const drivers = (driver: Driver, host: string) => ({ ...driver, definitions: of(ranges)(host) })
    return withFleet(two, { drivers }, async (fleet) => {
      assert.equal(await refusalOf(fleet), { type: 'DefinitionVersionUnsupported', ...numbers })
    })
  })
}

/** A driver whose definitions have a second version. */
const secondVersion = (driver: Driver): Driver => ({
  ...driver,
  definitions: versions(1, 2),
  begin: async (vm, leave) => {
    const begun = await driver.begin(vm)
    return 'refusal' in begun || leave?.definitionVersion !== 2
      ? begun
      : { ...begun, definition: `second ${begun.definition}` }
  },
  prepare: ({ definition, ...landing }) =>
    driver.prepare({
      ...landing,
      definition: landing.definitionVersion === 2 ? definition.replace('second ', '') : definition,
    }),
})

for (const [newer, chosen] of [
  [['rack1', 'rack2'], 2],
  [['rack1'], 1],
  [['rack2'], 1],
] as const)
  test(`a definition is written so that the target can read it: ${newer.join(' and ')} newer`, () => {
    const isNewer = (host: string) => newer.some((name) => name === host)
    const drivers = (driver: Driver, host: string) =>
      isNewer(host) ? secondVersion(driver) : driver
    return withFleet(two, { drivers }, async (fleet) => {
      assert.is(await refusalOf(fleet), undefined)
      assert.is((await said(fleet, 'MigrationBegun')).data.definitionVersion, chosen)
      assert.is((await said(fleet, 'TargetPrepared')).data.definitionVersion, chosen)
    })
  })

/** The log as a coordinator of the next release has it: it asks for one thing in another version, which it knows. */
function newerCoordinator(asked: MessageName) {
  const sent = new Map<string, Event>()
  const known = (entry: Entry): Entry => {
    const { message } = entry
    const event = message.is === 'unknown' ? sent.get(message.about?.id ?? '') : undefined
    return event === undefined ? entry : { ...entry, message: { is: 'event', event } }
  }
  async function* all(entries: AsyncIterable<Entry>) {
    for await (const entry of entries) yield known(entry)
  }
  return (log: Log, writer: Writer): Log => {
    if ('host' in writer) return log
    return {
      ...log,
      read: (range) => all(log.read(range)),
      follow: (range) => all(log.follow(range)),
      append: async (event, options) => {
        if (event.type !== asked) return log.append(event, options)
        sent.set(event.id, event)
        const body = encode(event).replace(`${asked}.v1`, `${asked}.v2`)
        ;(log as MemoryLog).inject(subjectOf(event) ?? '', body)
        return { position: await log.head() }
      },
    }
  }
}

for (const asked of ['Begin', 'Prepare', 'Perform', 'Finish'] as const)
  test(`an agent that does not know ${asked} says so by name, and the guest runs on`, () =>
    withFleet(two, { logs: newerCoordinator(asked) }, async (fleet) => {
      const command = `dev.ferry.${asked}.v2`
      assert.equal(await refusalOf(fleet), { type: 'CommandUnknown', command })
    }))

test('a host that does not know Start says so by name, and nobody waits for it any more', () =>
  withFleet(two, { logs: newerCoordinator('Start') }, async (fleet) => {
    const { record, fleet: folded } = fleet.coordinator()
    const order = { request: 's1', vm: 'web1', host: 'rack1', by: 'test' }
    const start = () => folded().guests.get('web1')?.start
    assert.ok((await record((now, world) => judgeStart(now, order, world), 's1')).accepted)
    await until('the start to be answered', () => start() === undefined)
    const command = 'dev.ferry.Start.v2'
    const { refusal } = (await said(fleet, 'StartRefused')).data
    assert.equal(refusal, { type: 'CommandUnknown', command })
    assert.is(fleet.hosts.get('rack1')?.world.guests.size, 0)
  }))

test('a source that does not know Confirm says so, and owes its answer; the guest has arrived', () => {
  const rules = { settleMs: 1000 }
  return withFleet(two, { logs: newerCoordinator('Confirm'), rules }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    const { phase, end } = await fleet.ended('m1')
    assert.is(phase, 'completed')
    assert.equal(end?.openDuties, [{ host: 'rack1', command: 'Confirm' }])
    assert.is((await said(fleet, 'CommandUnknown')).data.command, 'dev.ferry.Confirm.v2')
  })
})

test.run()

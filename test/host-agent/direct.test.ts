import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Event, EventOf, Writer } from '@ferry/schemas/event'
import { systemClock } from '@ferry/events/clock'
import type { Log } from '@ferry/events/log'
import { facts } from '@ferry/events/subjects'
import type { Migration } from '@ferry/events/migration'
import type { Driver } from '@ferry/host-agent/driver'
import { directly, nothingGoesOn, wholeCable } from '../direct.ts'
import type { Cable, GoesOn } from '../direct.ts'
import { places, silentTo, withFleet } from '../fleet-in-process.ts'
import type { FleetInProcess, FleetOptions } from '../fleet-in-process.ts'
import { until } from '../until.ts'

/** Hypervisors move an image by themselves: what the source says in the log is all that the target can go by. */
const test = suite('an image that goes directly')

const two = ['rack1', 'rack2']
const direct = { directConnections: 1 }

/** Hosts whose hypervisors reach each other. */
function joined(cable: Cable = wholeCable()): Required<Pick<FleetOptions, 'drivers'>> {
  const hosts = new Map<string, GoesOn>()
  return {
    drivers: (driver: Driver, host) => {
      const its = hosts.get(host) ?? nothingGoesOn()
      hosts.set(host, its)
      return directly(driver, driver, cable, its, systemClock)
    },
  }
}

/** Puts something between a host and what it says. */
const says =
  (host: string, change: (event: Event) => Promise<Event>) =>
  (log: Log, writer: Writer): Log =>
    'host' in writer && writer.host === host
      ? { ...log, append: async (event, options) => log.append(await change(event), options) }
      : log

const receiptOf = ({ verdict }: Migration['attempt']) =>
  verdict?.type === 'Committed' ? verdict.data : undefined

test('arrives on the word of its source, and the verdict says so', () =>
  withFleet(two, joined(), async (fleet) => {
    await fleet.start('web1', 'rack1')
    for (const [nth, target] of ['rack2', 'rack1', 'rack2'].entries()) {
      await fleet.migrate({ request: `m${nth}`, vm: 'web1', target, policy: direct })
      const { phase, attempt } = await fleet.ended(`m${nth}`)
      assert.equal([phase, attempt.number], ['completed', 1])
      assert.equal(places(fleet), [`${target} running`])
      const said = attempt.facts.Performed?.data
      const receipt = receiptOf(attempt)
      assert.is(said?.isDirect, true)
      assert.is(receipt?.endFrameAt, undefined)
      assert.equal([receipt?.bytes, receipt?.digest], [said?.bytes, said?.digest])
    }
  }))

test('a word that was not said with the key of its transfer is none', async () => {
  const forged = '0123456789abcdef0123456789abcdef'
  let isFirst = true
  const forge = async (event: Event): Promise<Event> => {
    if (event.type !== 'Performed' || !isFirst) return event
    isFirst = false
    return { ...event, data: { ...event.data, digest: forged } }
  }
  await withFleet(two, { ...joined(), logs: says('rack1', forge) }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', policy: direct })
    const { phase, attempt } = await fleet.ended('m1')
    assert.equal([phase, attempt.number], ['completed', 2])
    assert.equal(places(fleet), ['rack2 running'])
    const said = await fleet.log.last(facts('rack2', 'web1', 'ReceiveFailed'))
    const event = said?.message.is === 'event' ? said.message.event : undefined
    assert.ok(event?.type === 'ReceiveFailed' && event.data.failure.type === 'DigestMismatch')
    assert.is(event.data.failure.found, forged)
  })
})

test('what has arrived is not started before its source says that it was all', async () => {
  let letGo = () => {}
  const free = new Promise<void>((resolve) => {
    letGo = resolve
  })
  const performed: EventOf<'Performed'>[] = []
  const hold = async (event: Event): Promise<Event> => {
    if (event.type !== 'Performed') return event
    performed.push(event)
    await free
    return event
  }
  await withFleet(two, { ...joined(), logs: says('rack1', hold) }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', policy: direct })
    await until('the source to be through', () => performed.length > 0)
    await until('the target to be through', () => places(fleet).includes('rack2 loaded'))
    assert.equal(places(fleet), ['rack1 sent', 'rack2 loaded'])
    assert.is(receiptOf((await fleet.when('m1', () => true, 'to be there')).attempt), undefined)
    letGo()
    const { phase, attempt } = await fleet.ended('m1')
    assert.equal([phase, attempt.number], ['completed', 1])
    assert.equal(places(fleet), ['rack2 running'])
  })
})

const early = { ...direct, postCopyAfterMs: 0 }

test('what may be started before all of it is there is committed to then, and not started before its source is through', async () => {
  let letGo = () => {}
  const free = new Promise<void>((resolve) => {
    letGo = resolve
  })
  const hold = async (event: Event): Promise<Event> => {
    if (event.type === 'Performed') await free
    return event
  }
  await withFleet(two, { ...joined(), logs: says('rack1', hold) }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', policy: early })
    const { attempt } = await fleet.when('m1', (it) => it.phase === 'activating', 'to be committed')
    assert.is(receiptOf(attempt)?.digest, attempt.facts.SourcePaused?.data.offer?.digest)
    await until('the source to be through', () => places(fleet).includes('rack1 sent'))
    assert.ok(!places(fleet).includes('rack2 running'))
    letGo()
    const ended = await fleet.ended('m1')
    assert.equal([ended.phase, ended.attempt.number], ['completed', 1])
    assert.equal(places(fleet), ['rack2 running'])
  })
})

test('a source whose hypervisor breaks off behind Committed takes its offer back, and its target never runs', async () => {
  const cable = wholeCable()
  let isFirst = true
  const breaking: Cable = {
    ...cable,
    answers: { ...cable.answers, to: async (name) => (await cable.answers.to(name)) && !isFirst },
  }
  const logs = says('rack2', async (event) => {
    // What is committed to in the first attempt breaks right behind it.
    if (event.type === 'TargetNeverRan') isFirst = false
    return event
  })
  await withFleet(two, { ...joined(breaking), logs }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', policy: early })
    const { phase, attempt } = await fleet.ended('m1')
    assert.equal([phase, attempt.number], ['completed', 2])
    assert.equal(places(fleet), ['rack2 running'])
    assert.is(isFirst, false)
  })
})

test('post-copy is for what goes directly, over one connection and without disks', () =>
  withFleet(two, joined(), async (fleet) => {
    await fleet.start('web1', 'rack1')
    const wishes = [{}, { directConnections: 2 }, { directConnections: 1, copyDisks: true }]
    for (const [nth, wish] of wishes.entries()) {
      const policy = { ...wish, postCopyAfterMs: 0 }
      const answer = await fleet.migrate({ request: `m${nth}`, vm: 'web1', policy })
      assert.match(JSON.stringify(answer), 'NotUnderstood')
    }
  }))

test('a target whose agent is killed has it all the same', async () => {
  const holding = new AbortController()
  const hold = async (event: Event): Promise<Event> => {
    if (event.type === 'Performed' && !holding.signal.aborted)
      await new Promise((resolve) => holding.signal.addEventListener('abort', resolve))
    return event
  }
  await withFleet(two, { ...joined(), logs: says('rack1', hold) }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', policy: direct })
    await until('the target to be through', () => places(fleet).includes('rack2 loaded'))
    fleet.hosts.get('rack2')?.crashAgent()
    holding.abort()
    const { phase, attempt } = await fleet.ended('m1')
    assert.equal([phase, attempt.number], ['completed', 1])
    assert.equal(places(fleet), ['rack2 running'])
  })
})

test('a source that hears nothing of the log runs on at home, though all of it has arrived (rule 5)', async () => {
  let isSilent = false
  let here: FleetInProcess | undefined
  const silences: string[] = []
  const logs = silentTo('rack1', () => isSilent)
  const { drivers } = joined()
  await withFleet(
    two,
    {
      logs,
      drivers: (driver, host) => {
        const its = drivers(driver, host)
        return {
          ...its,
          perform: (vm, order) =>
            its.perform(vm, {
              ...order,
              gate: async () => {
                isSilent = silences.length === 0
                // What was heard of the log has to get old.
                if (isSilent) await systemClock.sleep(500)
                return order.gate().finally(() => {
                  if (isSilent) silences.push(here === undefined ? '' : places(here).join())
                  isSilent = false
                })
              },
            }),
        }
      },
    },
    async (fleet) => {
      here = fleet
      await fleet.start('web1', 'rack1')
      await fleet.migrate({ request: 'm1', vm: 'web1', policy: direct })
      const { phase, attempt } = await fleet.ended('m1')
      assert.equal([phase, attempt.number], ['completed', 2])
      assert.equal(silences, ['rack1 sent,rack2 loaded'])
      assert.equal(places(fleet), ['rack2 running'])
    },
  )
})

test("its hypervisor is told of its host's limit, for nobody else holds it back", async () => {
  const told: (number | undefined)[] = []
  const { drivers } = joined()
  const listening = (driver: Driver, host: string): Driver => {
    const its = drivers(driver, host)
    return {
      ...its,
      perform: (vm, order) => {
        told.push(order.dial.policy().bandwidthBytesPerSecond)
        return its.perform(vm, order)
      },
    }
  }
  const most = 50_000_000
  await withFleet(two, { drivers: listening, bandwidthBytesPerSecond: most }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    const move = async (request: string, target: string, policy: object) => {
      await fleet.migrate({ request, vm: 'web1', target, policy })
      assert.is((await fleet.ended(request)).phase, 'completed')
    }
    await move('m1', 'rack2', direct)
    await move('m2', 'rack1', { ...direct, bandwidthBytesPerSecond: most / 2 })
    await move('m3', 'rack2', {})
    assert.equal(told, [most, most / 2, undefined])
  })
})

test('whoever wants that of hypervisors that cannot do it is told so, before anything has moved', () =>
  withFleet(two, {}, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', policy: direct })
    const { phase, end } = await fleet.ended('m1')
    assert.is(phase, 'abandoned')
    assert.equal(end?.cause, {
      type: 'Refused',
      host: 'rack1',
      refusal: {
        type: 'CapabilityMissing',
        capability: 'sending an image directly',
        hypervisor: 'simulated',
      },
    })
    assert.equal(places(fleet), ['rack1 running'])
  }))

test.run()

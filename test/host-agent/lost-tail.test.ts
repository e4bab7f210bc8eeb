import { judgeRecover } from '@ferry/coordinator/decide/recover'
import { isStopped } from '@ferry/events/alarms'
import type { Entry } from '@ferry/events/entry'
import type { Log } from '@ferry/events/log'
import type { Watermark } from '@ferry/events/watermark'
import type { Driver } from '@ferry/host-agent/driver'
import type { Event, EventOf, Writer } from '@ferry/schemas/event'
import type { RecoverRequest } from '@ferry/schemas/request'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { logRecovered } from '../events/examples.ts'
import { places, withFleet } from '../fleet-in-process.ts'
import type { FleetInProcess } from '../fleet-in-process.ts'
import { until } from '../until.ts'

/** The log is put back to an old copy of itself, at the worst moments, under a fleet with simulated guests. */
const test = suite('a log that lost its tail')

const two = ['rack1', 'rack2']

async function positionOf({ log }: FleetInProcess, type: Event['type']): Promise<number> {
  for await (const { position, message } of log.read({ after: 0 }))
    if (message.is === 'event' && message.event.type === type) return position
  throw new Error(`there is no ${type}`)
}

const isAlarmed = ({ coordinator }: FleetInProcess) => isStopped(coordinator().fleet().alarms)

const recover = ({ coordinator }: FleetInProcess, more: Partial<RecoverRequest> = {}) =>
  coordinator().record(
    (fleet, world) => judgeRecover(fleet, { by: 'test', without: [], guests: [], ...more }, world),
    'recovery',
  )

/** Recovers when every host has said what runs there. */
async function recovered(fleet: FleetInProcess, more: Partial<RecoverRequest> = {}) {
  await until('the recovery', async () => (await recover(fleet, more)).accepted)
  await until('the alarms to be answered', () => !isAlarmed(fleet))
}

test('Committed and lost: nothing is decided, and after the recovery the guest runs once, on the target', () =>
  withFleet(two, {}, async (fleet) => {
    await fleet.start('db1', 'rack2')
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    await fleet.ended('m1')
    fleet.log.putBack((await positionOf(fleet, 'TargetPrepared')) + 1)
    await until('the alarm', () => isAlarmed(fleet))
    const refused = await fleet.migrate({ request: 'm2', vm: 'db1' })
    assert.is(refused.accepted ? '' : refused.refusal.type, 'LogBehind')
    assert.equal(places(fleet), ['rack2 running', 'rack2 running'])

    await recovered(fleet)
    assert.is((await fleet.ended('m1')).phase, 'completed')
    await fleet.migrate({ request: 'm3', vm: 'web1', target: 'rack1' })
    assert.is((await fleet.ended('m3')).phase, 'completed')
    assert.equal(places(fleet), ['rack1 running', 'rack2 running'])
  }))

test('a source that was to be released when the tail was lost is released by the recovery', async () => {
  let letGo = () => {}
  const held = new Promise<void>((resolve) => {
    letGo = resolve
  })
  let isReached = false
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    release: async (vm) => {
      const isFirst = !isReached
      isReached = true
      if (isFirst) {
        await held
        throw new Error('the agent was cut off here')
      }
      return driver.release(vm)
    },
  })
  await withFleet(two, { drivers }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    await until('the release to be reached', () => isReached)
    fleet.log.putBack((await positionOf(fleet, 'TargetPrepared')) + 1)
    letGo()
    await until('the alarm', () => isAlarmed(fleet))
    assert.equal(places(fleet), ['rack1 sent', 'rack2 running'])
    await recovered(fleet)
    assert.is((await fleet.ended('m1')).phase, 'completed')
    await until('one copy', () => places(fleet).join() === 'rack2 running')
  })
})

test('a guest does not wait for the disk to remember why it may run; whoever asks about it does', async () => {
  let letGo = () => {}
  const held = new Promise<void>((resolve) => {
    letGo = resolve
  })
  let hasRun = false
  let isAsked = false
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    activate: async (vm) => {
      const running = await driver.activate(vm)
      hasRun = true
      return running
    },
  })
  const watermarks = (watermark: Watermark): Watermark => ({
    ...watermark,
    sync: async () => {
      if (!hasRun) return
      isAsked = true
      await held
    },
  })
  await withFleet(two, { drivers, watermarks }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    await until('the disk to be waited for', () => isAsked)
    assert.equal(places(fleet), ['rack1 sent', 'rack2 running'])
    const said = await positionOf(fleet, 'TargetRunning').catch((error: Error) => error.message)
    assert.is(said, 'there is no TargetRunning')
    letGo()
    assert.is((await fleet.ended('m1')).phase, 'completed')
  })
})

test('a full disk holds commands up, and ends no agent', async () => {
  let isFull = false
  let tries = 0
  const watermarks = (watermark: Watermark): Watermark => ({
    ...watermark,
    keep: () => {
      if (!isFull) return watermark.keep()
      tries += 1
      throw new Error('ENOSPC: no space left on device')
    },
  })
  await withFleet(two, { watermarks }, async (fleet) => {
    isFull = true
    const starting = fleet.start('web1', 'rack1')
    await until('it to be tried again', () => tries > 2)
    assert.equal(places(fleet), [])
    isFull = false
    await starting
    assert.equal(places(fleet), ['rack1 running'])
  })
})

test('a start that the log has forgotten is not carried out a second time', () =>
  withFleet(two, {}, async (fleet) => {
    await fleet.start('web1', 'rack1')
    const started = await positionOf(fleet, 'GuestStarted')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    await fleet.ended('m1')
    fleet.log.putBack(started - 1)
    await until('the alarm', () => isAlarmed(fleet))
    await recovered(fleet)
    await fleet.migrate({ request: 'm2', vm: 'web1', target: 'rack1' })
    assert.is((await fleet.ended('m2')).phase, 'completed')
    assert.equal(places(fleet), ['rack1 running'])
  }))

test('an order to start that was on its way when a recovery took it back is not carried out', () =>
  withFleet(two, {}, async (fleet) => {
    const { log } = fleet
    const order = (vm: string): EventOf<'Start'> => ({
      type: 'Start',
      id: `late-${vm}`,
      writer: { coordinator: 'c0' },
      time: '2026-11-25T12:00:00.000Z',
      vm,
      data: { host: 'rack1', start: `start-${vm}` },
    })
    await log.append(order('web1'))
    await fleet.start('web2', 'rack1')
    // Nor later, when it stands there once more and the guest has left.
    await fleet.migrate({ request: 'm1', vm: 'web2', target: 'rack2' })
    assert.is((await fleet.ended('m1')).phase, 'completed')
    await log.append(order('web2'))
    await fleet.start('web3', 'rack1')
    assert.equal(places(fleet), ['rack1 running', 'rack2 running'])
  }))

test('a recovery waits for what a hypervisor was told before the alarm', async () => {
  let letGo = () => {}
  const held = new Promise<void>((resolve) => {
    letGo = resolve
  })
  let isReached = false
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    start: async (vm) => {
      isReached ||= vm === 'web1'
      if (vm === 'web1') await held
      return driver.start(vm)
    },
  })
  await withFleet(two, { drivers }, async (fleet) => {
    const { log } = fleet
    await fleet.start('web2', 'rack2')
    const end = await log.head()
    const starting = fleet.start('web1', 'rack1')
    await until('the start to be reached', () => isReached)
    log.putBack(end)
    await until('rack2 alone to have stopped', async () => {
      const answer = await recover(fleet)
      return !answer.accepted && answer.sentence.startsWith('rack1 has not said')
    })
    assert.equal(places(fleet), ['rack2 running'])
    letGo()
    await recovered(fleet)
    await starting
    assert.equal(places(fleet), ['rack1 running', 'rack2 running'])
  })
})

/** A log that one can be cut off from for a while: what is asked of it, and what comes from it, waits. */
function gated(log: Log, whileCut: () => Promise<void>): Log {
  const through = async <T>(work: () => Promise<T>): Promise<T> => {
    await whileCut()
    return work()
  }
  async function* each<T>(from: AsyncIterable<T>) {
    for await (const one of from) {
      await whileCut()
      yield one
    }
  }
  return {
    ...log,
    append: (...words) => through(() => log.append(...words)),
    next: (...words) => through(() => log.next(...words)),
    last: (...words) => through(() => log.last(...words)),
    head: (...words) => through(() => log.head(...words)),
    read: (range) => each(log.read(range)),
    follow: (range) => each(log.follow(range)),
    deliveries: (receiver) => each(log.deliveries(receiver)),
    onReturn: (act) => log.onReturn(() => void whileCut().then(act)),
  }
}

test('an agent that hears of a loss when it has been answered begins anew as well', async () => {
  let cut = Promise.resolve()
  const logs = (log: Log, writer: Writer) =>
    'host' in writer && writer.host === 'rack1' ? gated(log, () => cut) : log
  await withFleet(two, { logs }, async (fleet) => {
    const { log, coordinator } = fleet
    await fleet.start('web1', 'rack1')
    const reportOf = async (host: string) => {
      const { position = 0, message } = (await log.last(`ferry.host.${host}`)) ?? {}
      const report = message?.is === 'event' && message.event.type === 'HostReported'
      assert.ok(report)
      return { position, ...message.event.data }
    }
    await until('rack1 to report it', async () => (await reportOf('rack1')).guests.length === 1)
    let mend = () => {}
    cut = new Promise((resolve) => {
      mend = resolve
    })
    log.putBack(0)
    await until('the alarm', () => isAlarmed(fleet))
    // By an operator who believed that rack1 was off.
    await until('rack2 to have stopped', async () => {
      const told = (await log.last('ferry.host.rack2'))?.message
      return told?.is === 'event' && JSON.stringify(told.event).includes('"stopped"')
    })
    const { standing, head: after } = coordinator().fleet().alarms
    const answers = Object.values(standing).map(({ position }) => position)
    const without = ['rack1']
    await log.append(logRecovered({ after, answers, by: 'test', without }, 'without rack1'))
    await until('the alarms to be answered', () => !isAlarmed(fleet))
    mend()
    await until('rack1 to report', () => coordinator().fleet().hosts.has('rack1'))
    const { position, asOf } = await reportOf('rack1')
    assert.ok(asOf < position, `what it says at ${position} counts what it said at ${asOf}`)
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    assert.is((await fleet.ended('m1')).phase, 'completed')
    assert.equal(places(fleet), ['rack2 running'])
  })
})

test('a coordinator without a memory stops as well, because the hosts say it', () =>
  withFleet(two, {}, async (fleet) => {
    await fleet.start('web1', 'rack1')
    fleet.log.putBack((await positionOf(fleet, 'GuestStarted')) - 1)
    await until('the alarm', () => isAlarmed(fleet))
    await fleet.replaceCoordinator()
    assert.ok(isAlarmed(fleet))
    const refused = await fleet.cancel('m1')
    assert.is(refused.accepted ? '' : refused.refusal.type, 'UnknownMigration')
    await until(
      'the hosts to be heard',
      () => fleet.coordinator().world().alive.size === two.length,
    )
    await recovered(fleet)
  }))

test('a silent host has to be named', () =>
  withFleet(two, {}, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.hosts.get('rack2')?.stopAgent()
    fleet.log.putBack((await positionOf(fleet, 'GuestStarted')) - 1)
    await until('the alarm', () => isAlarmed(fleet))
    await until('rack1 to have reported', async () => {
      const answer = await recover(fleet)
      return !answer.accepted && answer.sentence.startsWith('rack2 has not said')
    })
    await recovered(fleet, { without: ['rack2'] })
  }))

test('what was folded and not worth an alarm is read anew as well', () =>
  withFleet(two, {}, async (fleet) => {
    await fleet.start('web1', 'rack1')
    const { log, coordinator } = fleet
    const isAtTheEnd = async () => coordinator().fleet().position === (await log.head())
    await until('rack1 to report it', async () =>
      JSON.stringify((await log.last('ferry.host.rack1'))?.message).includes('"web1"'),
    )
    const end = await log.head()
    log.inject('ferry.host.rack1', 'junk')
    await until('the junk to be folded', isAtTheEnd)
    log.putBack(end)
    // It stands where the junk stood, and a follower that was given that does not get it.
    log.inject('ferry.host.rack2', 'other junk')
    const led = async () => (await log.last('ferry.coordinator.c1'))?.position ?? 0
    await until('the coordinator to begin anew', async () => (await led()) > end)
    await until('all of it to be folded', isAtTheEnd)
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    assert.is((await fleet.ended('m1')).phase, 'completed')
    assert.not.ok(isAlarmed(fleet))
  }))

test('a coordinator does not wait for what it wrote into the lost tail', async () => {
  let letGo = () => {}
  const held = new Promise<void>((resolve) => {
    letGo = resolve
  })
  let isLost = false
  let fill = () => {}
  const isJunk = ({ message }: Entry) => message.is === 'void'
  const logs = (log: Log, writer: Writer): Log =>
    'host' in writer
      ? log
      : {
          ...log,
          append: (event, options) => {
            if (event.type === 'Admitted' && !isLost) fill()
            return log.append(event, options)
          },
          async *follow(range) {
            let { after } = range
            for await (const entry of log.follow(range)) {
              if (isJunk(entry)) break
              after = entry.position
              yield entry
            }
            await held
            yield* log.follow({ ...range, after })
          },
        }
  await withFleet(two, { logs }, async (fleet) => {
    const { log } = fleet
    await fleet.start('web1', 'rack1')
    fill = () => {
      for (let nth = 0; nth < 200; nth++) log.inject('ferry.host.rack1', 'junk')
    }
    const asking = fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    await until('the admission to stand far behind', async () =>
      positionOf(fleet, 'Admitted').then(
        () => true,
        () => false,
      ),
    )
    await asking
    isLost = true
    log.putBack(await positionOf(fleet, 'MigrationRequested'))
    letGo()
    assert.is((await fleet.ended('m1')).phase, 'completed')
  })
})

test('after the alarm a host is believed that was started anew behind its verdict', () =>
  withFleet(two, {}, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    await fleet.ended('m1')
    fleet.log.putBack(await positionOf(fleet, 'Committed'))
    await until('the alarm', () => isAlarmed(fleet))
    fleet.hosts.get('rack2')?.crashAgent()
    await recovered(fleet)
    assert.is((await fleet.ended('m1')).phase, 'completed')
    assert.equal(places(fleet), ['rack2 running'])
  }))

test('after the alarm a host is believed of which more stands in the log than it knows', async () => {
  let letGo = () => {}
  const held = new Promise<void>((resolve) => {
    letGo = resolve
  })
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    perform: async (vm, order) => {
      const sent = await driver.perform(vm, order)
      await held
      return sent
    },
  })
  await withFleet(two, { drivers }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    await until('the guest to be sent', () => places(fleet).includes('rack1 sent'))
    const paused = () => positionOf(fleet, 'SourcePaused')
    await until('the pause to be told', () =>
      paused().then(
        () => true,
        () => false,
      ),
    )
    const end = await fleet.log.head()
    await fleet.start('web2', 'rack2')
    fleet.log.putBack(end)
    await until('the alarm', () => isAlarmed(fleet))
    letGo()
    await recovered(fleet, { guests: [{ vm: 'web1', host: 'rack1' }] })
    const home = () => places(fleet).join() === 'rack1 running,rack2 running'
    await until('the guest to run at home', home)
  })
})

test.run()

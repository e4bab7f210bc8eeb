import { CopyFailed, NeverStarted } from '@ferry/host-agent/driver'
import type { Driver } from '@ferry/host-agent/driver'
import { systemClock } from '@ferry/events/clock'
import { encode } from '@ferry/schemas/cloud-event'
import type { Log } from '@ferry/events/log'
import { commands, verdicts } from '@ferry/events/subjects'
import { targetOf } from '@ferry/events/migration'
import type { Migration } from '@ferry/events/migration'
import type { PhaseName } from '@ferry/events/phases'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { kinds } from '@ferry/host-agent/transfer/frames'
import type { Wire } from '@ferry/host-agent/transfer/wire'
import { committed } from '../events/examples.ts'
import { places, quietVm, silentTo, withFleet } from '../fleet-in-process.ts'
import { until } from '../until.ts'

/** Coordinator, agents and transfers as they are, with simulated guests: the stories that need both sides. */
const test = suite('a migration of a simulated guest')

const two = ['rack1', 'rack2']

/** Holds the hosts back in one call until it is let go. */
function heldBack(call: 'begin' | 'prepare' | 'perform' | 'release') {
  let letGo = () => {}
  let isReached = false
  const free = new Promise<void>((resolve) => {
    letGo = resolve
  })
  const hold = async () => {
    isReached = true
    await free
  }
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    ...(call === 'begin'
      ? { begin: (vm, leave) => hold().then(() => driver.begin(vm, leave)) }
      : {}),
    ...(call === 'prepare'
      ? { prepare: (...args) => hold().then(() => driver.prepare(...args)) }
      : {}),
    ...(call === 'perform'
      ? { perform: (...args) => hold().then(() => driver.perform(...args)) }
      : {}),
    ...(call === 'release' ? { release: (vm) => hold().then(() => driver.release(vm)) } : {}),
  })
  return { drivers, letGo, reached: () => until(`${call} to be reached`, () => isReached) }
}

/** What the target's hypervisor says when it has prepared: it may hold a password. */
const COOKIE = '<graphics passwd="swordfish"/>'

const TOO_LARGE = 'x'.repeat(200_000)

test('a definition that no message can hold is refused, with its size', async () => {
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    begin: async (vm, leave) => ({ ...(await driver.begin(vm, leave)), definition: TOO_LARGE }),
  })
  await withFleet(two, { drivers }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2', policy: { attempts: 1 } })
    const { phase, end } = await fleet.ended('m1')
    assert.is(phase, 'abandoned')
    assert.match(
      JSON.stringify(end?.cause),
      /"path":"definition","problem":"is too large: 26\d{4} bytes/,
    )
    assert.equal(places(fleet), ['rack1 running'])
  })
})

test('a cookie that no message can hold is refused, and nothing is left of its copy', async () => {
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    prepare: async (landing) => (await driver.prepare(landing)) ?? { cookie: TOO_LARGE },
  })
  await withFleet(two, { drivers }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2', policy: { attempts: 1 } })
    const { phase, end } = await fleet.ended('m1')
    assert.is(phase, 'abandoned')
    assert.match(
      JSON.stringify(end?.cause),
      /"path":"cookie","problem":"is too large: 26\d{4} bytes/,
    )
    assert.equal(places(fleet), ['rack1 running'])
  })
})

test("what the target's hypervisor has to say to the source's gets there, sealed", async () => {
  const heard: (string | undefined)[] = []
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    prepare: async (landing) => (await driver.prepare(landing)) ?? { cookie: COOKIE },
    perform: (vm, order) => {
      heard.push(order.cookie)
      return driver.perform(vm, order)
    },
  })
  await withFleet(two, { drivers }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    assert.is((await fleet.ended('m1')).phase, 'completed')
    assert.equal(heard, [COOKIE])
    for await (const { message } of fleet.log.read({ after: 0 }))
      assert.not.match(JSON.stringify(message), 'swordfish')
  })
})

test('goes there, and back again', () =>
  withFleet(two, {}, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    assert.is((await fleet.ended('m1')).phase, 'completed')
    assert.equal(places(fleet), ['rack2 running'])
    await fleet.migrate({ request: 'm2', vm: 'web1' })
    assert.is((await fleet.ended('m2')).phase, 'completed')
    assert.equal(places(fleet), ['rack1 running'])
  }))

const cancelledWhile: [PhaseName, 'begin' | 'prepare' | 'perform'][] = [
  ['beginning', 'begin'],
  ['preparing', 'prepare'],
  ['performing', 'perform'],
]
for (const [phase, call] of cancelledWhile)
  test(`cancelled while ${phase}, it stays at home and leaves nothing behind`, async () => {
    const { drivers, letGo, reached } = heldBack(call)
    await withFleet(two, { drivers }, async (fleet) => {
      await fleet.start('web1', 'rack1')
      await fleet.migrate({ request: 'm1', vm: 'web1' })
      await reached()
      assert.ok((await fleet.cancel('m1')).accepted)
      await fleet.when(
        'm1',
        ({ attempt }) => attempt.verdict?.type === 'Cancelled',
        'to be cancelled',
      )
      letGo()
      assert.is((await fleet.ended('m1')).phase, 'abandoned')
      assert.equal(places(fleet), ['rack1 running'])
    })
  })

test('its limits may be changed while it is copied, as often as one likes, and it goes on in the same attempt', async () => {
  const held: number[] = []
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    perform: (vm, order) => {
      order.dial.onTurn(order.dial.policy(), async ({ downtimeMs }) => void held.push(downtimeMs))
      return driver.perform(vm, order)
    },
  })
  // Never done: it writes far more than so little a pause could take.
  const policy = { bandwidthBytesPerSecond: 2 ** 20, downtimeMs: 1 }
  await withFleet(two, { drivers }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2', policy })
    await fleet.when('m1', ({ phase }) => phase === 'performing', 'to be copied')
    assert.ok((await fleet.limit('m1', { downtimeMs: 2 })).accepted)
    await until('the source to hear of it', () => held.includes(2))
    assert.ok(
      (await fleet.limit('m1', { downtimeMs: 60_000, bandwidthBytesPerSecond: null })).accepted,
    )
    const { phase, attempt } = await fleet.ended('m1')
    assert.is(phase, 'completed')
    assert.is(attempt.number, 1)
    assert.equal(held, [2, 60_000])
    assert.equal(places(fleet), ['rack2 running'])
  })
})

test('cancelled in the queue, it never begins', () =>
  withFleet(two, { rules: { limits: { fleet: 0, perSource: 1, perTarget: 1 } } }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1' })
    assert.ok((await fleet.cancel('m1')).accepted)
    const { phase, attempt } = await fleet.ended('m1')
    assert.is(phase, 'abandoned')
    assert.is(attempt.slot, undefined)
    assert.equal(places(fleet), ['rack1 running'])
  }))

test('a cancel behind the verdict is refused, and says where the verdict stands', async () => {
  const { drivers, letGo, reached } = heldBack('release')
  await withFleet(two, { drivers }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1' })
    await reached()
    const answer = await fleet.cancel('m1')
    assert.ok(!answer.accepted && answer.refusal.type === 'TooLateToCancel', JSON.stringify(answer))
    letGo()
    assert.is((await fleet.ended('m1')).phase, 'completed')
  })
})

test('asked twice with one request id, it is one migration; with another id, the second one is refused', async () => {
  const { drivers, letGo, reached } = heldBack('begin')
  await withFleet(two, { drivers }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    const first = await fleet.migrate({ request: 'm1', vm: 'web1' })
    assert.equal(await fleet.migrate({ request: 'm1', vm: 'web1' }), first)
    await reached()
    const other = await fleet.migrate({ request: 'm2', vm: 'web1' })
    assert.ok(!other.accepted && other.refusal.type === 'AlreadyMigrating', JSON.stringify(other))
    letGo()
    await fleet.ended('m1')
    const taken = await fleet.migrate({ request: 'm1', vm: 'web2' })
    assert.ok(!taken.accepted && taken.refusal.type === 'RequestIdTaken', JSON.stringify(taken))
  })
})

test('an id whose verdict still stands in the log is not used again, though nobody remembers the migration', () =>
  withFleet(two, {}, async (fleet) => {
    await fleet.start('web1', 'rack1')
    // As if so many had come behind it that it was forgotten.
    await fleet.log.append(committed())
    const taken = await fleet.migrate({ request: 'm1', vm: 'web1' })
    assert.ok(!taken.accepted && taken.refusal.type === 'RequestIdTaken', JSON.stringify(taken))
    assert.ok((await fleet.migrate({ request: 'm2', vm: 'web1' })).accepted)
    assert.is((await fleet.ended('m2')).phase, 'completed')
  }))

test('a copy that fails is tried again, and arrives', async () => {
  let failures = 0
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    perform: async (...args) => {
      if (failures++ === 0) throw new CopyFailed({ type: 'HypervisorFailed', message: 'no luck' })
      return driver.perform(...args)
    },
  })
  await withFleet(two, { drivers }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1' })
    const { phase, attempt } = await fleet.ended('m1')
    assert.equal([phase, attempt.number], ['completed', 2])
    assert.equal(places(fleet), ['rack2 running'])
  })
})

test('whoever wants disks to travel is told where they cannot, before anything has moved', () =>
  withFleet(two, {}, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', policy: { copyDisks: true } })
    const { phase, end } = await fleet.ended('m1')
    assert.is(phase, 'abandoned')
    assert.equal(end?.cause, {
      type: 'Refused',
      host: 'rack1',
      refusal: {
        type: 'CapabilityMissing',
        capability: 'copying disks',
        hypervisor: 'simulated',
      },
    })
    assert.equal(places(fleet), ['rack1 running'])
  }))

test('a target that refuses is left for another one', async () => {
  const drivers = (driver: Driver, host: string): Driver => ({
    ...driver,
    ...(host === 'rack2'
      ? { prepare: async () => ({ type: 'DiskMissing' as const, path: '/shared/web1.img' }) }
      : {}),
  })
  await withFleet([...two, 'rack3'], { drivers }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1' })
    const migration = await fleet.ended('m1')
    assert.equal([migration.phase, targetOf(migration)], ['completed', 'rack3'])
    assert.equal(places(fleet), ['rack3 running'])
  })
})

test('an agent that was restarted answers a repeated command with its first answer, and does nothing twice (I7)', async () => {
  let begun = 0
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    begin: (vm) => {
      begun += 1
      return driver.begin(vm)
    },
  })
  await withFleet(two, { drivers, vm: slowVm }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', policy: neverDone })
    await fleet.when('m1', isCopying, 'to copy')
    await fleet.hosts.get('rack1')?.stopAgent()
    fleet.hosts.get('rack1')?.startAgent()
    await fleet.when('m1', ({ attempt }) => attempt.number === 2, 'to be tried again')
    await fleet.when('m1', isCopying, 'to copy again')
    // Once for each attempt: the second agent read in the log that the first one had answered.
    assert.is(begun, 2)
    await fleet.cancel('m1')
    assert.is((await fleet.ended('m1')).phase, 'abandoned')
    assert.equal(places(fleet), ['rack1 running'])
  })
})

test('a target that says that the guest never ran has no copy any more that somebody could start (rule 6)', async () => {
  const failure = { type: 'HypervisorFailed', message: 'it does not want to' } as const
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    activate: () => Promise.reject(new NeverStarted(failure)),
  })
  const hadCopy: boolean[] = []
  const logs = (log: Log): Log => ({
    ...log,
    append: (event, options) => {
      if (event.type === 'TargetNeverRan') hadCopy.push(isThere())
      return log.append(event, options)
    },
  })
  let isThere = () => true
  await withFleet(two, { drivers, logs }, async (fleet) => {
    isThere = () => fleet.hosts.get('rack2')?.world.guests.has('web1') ?? true
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2', policy: { attempts: 1 } })
    assert.is((await fleet.ended('m1')).phase, 'abandoned')
    assert.equal(hadCopy, [false])
    assert.equal(places(fleet), ['rack1 running'])
  })
})

test('ordered twice to start a guest while it is starting, a host starts it once (I1)', async () => {
  let [started, isOrderedTwice] = [0, false]
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    start: async (vm) => {
      started += 1
      await until('the order to be there twice', () => isOrderedTwice)
      return driver.start(vm)
    },
  })
  await withFleet(two, { drivers }, async (fleet) => {
    const starting = fleet.start('web1', 'rack1')
    await until('the guest to be starting', () => started > 0)
    const order = await fleet.log.last(commands('rack1', 'web1', 'Start'))
    assert.ok(order?.message.is === 'event')
    fleet.log.inject(order.subject, encode(order.message.event))
    isOrderedTwice = true
    await starting
    await fleet.migrate({ request: 'm1', vm: 'web1' })
    await fleet.ended('m1')
    assert.is(started, 1)
    assert.equal(places(fleet), ['rack2 running'])
  })
})

test('a coordinator that is replaced while it copies is not missed', () =>
  withFleet(two, { vm: { memoryMiB: 16, pagesPerSecond: 500 } }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    const policy = { bandwidthBytesPerSecond: 8_000_000 }
    await fleet.migrate({ request: 'm1', vm: 'web1', policy })
    await fleet.when('m1', isCopying, 'to copy')
    await fleet.replaceCoordinator()
    const { phase, attempt } = await fleet.ended('m1')
    assert.equal([phase, attempt.number], ['completed', 1])
    assert.equal(places(fleet), ['rack2 running'])
  }))

test('a source that cannot let go does not hold the guest, and settles its duty when it can', async () => {
  let isStuck = true
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    release: async (vm) => {
      if (isStuck) throw new Error('the hypervisor is stuck')
      await driver.release(vm)
    },
  })
  await withFleet(two, { drivers, rules: { settleMs: 300 } }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1' })
    const { phase, end } = await fleet.ended('m1')
    assert.is(phase, 'completed')
    assert.equal(end?.openDuties, [{ host: 'rack1', command: 'Confirm' }])
    assert.equal(places(fleet), ['rack1 sent', 'rack2 running'])
    await fleet.hosts.get('rack1')?.stopAgent()
    isStuck = false
    fleet.hosts.get('rack1')?.startAgent()
    await until('the old copy to be gone', () => places(fleet).join() === 'rack2 running')
  })
})

/** A network that breaks under the end frame: the source has handed it over, and it never arrives. */
const losesEndFrames =
  (losesMore: boolean) =>
  (wire: Wire): Wire => ({
    ...wire,
    connect: async (ticket, signal) => {
      const stream = await wire.connect(ticket, signal)
      const write = stream.write.bind(stream)
      let isFirst = true
      const lossy = (frame: Buffer, told: (error?: Error | null) => void) => {
        const kind = frame.readUInt32BE(0)
        const isLost = kind === kinds.end || (losesMore && kind === kinds.data && isFirst)
        if (kind === kinds.data) isFirst = false
        if (!isLost) return write(frame, 'binary', told)
        if (kind === kinds.end) stream.end()
        told()
        return true
      }
      return Object.assign(stream, { write: lossy })
    },
  })

test('an end frame that gets lost costs nothing: what the source has said in the log stands in for it', () =>
  withFleet(two, { wires: losesEndFrames(false) }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1' })
    const { phase, attempt } = await fleet.ended('m1')
    assert.equal([phase, attempt.number], ['completed', 1])
    assert.equal(places(fleet), ['rack2 running'])
    const { verdict } = attempt
    assert.ok(verdict?.type === 'Committed')
    assert.is(verdict?.data.endFrameAt, undefined)
    assert.is(verdict?.data.digest, attempt.facts.Performed?.data.digest)
  }))

test('without its end frame an image that is not what the source sent is no image', () =>
  withFleet(two, { wires: losesEndFrames(true) }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', policy: { attempts: 1 } })
    const { phase, attempt } = await fleet.ended('m1')
    assert.is(phase, 'abandoned')
    assert.is(attempt.facts.ReceiveFailed?.data.failure.type, 'StreamCut')
    assert.equal(places(fleet), ['rack1 running'])
  }))

test('a log that falls silent while the rest of the memory is on its way does not keep the guest paused (rule 5)', async () => {
  let verdict = async (): Promise<unknown> => undefined
  let hasFallenSilent = false
  let isSilent = false
  const verdictsWhenResumed: unknown[] = []
  const logs = silentTo('rack1', () => isSilent)
  await withFleet(
    two,
    {
      logs,
      drivers: (driver) => ({
        ...driver,
        perform: async (...args) => {
          const sent = await driver.perform(...args)
          isSilent = !hasFallenSilent
          hasFallenSilent = true
          // What was heard of the log has to get old.
          if (isSilent) await systemClock.sleep(500)
          return sent
        },
        resume: async (vm) => {
          isSilent = false
          verdictsWhenResumed.push(await verdict())
          return driver.resume(vm)
        },
      }),
    },
    async (fleet) => {
      verdict = async () => fleet.log.last(verdicts('rack2', 'm1', 1))
      await fleet.start('web1', 'rack1')
      await fleet.migrate({ request: 'm1', vm: 'web1' })
      const { phase, attempt } = await fleet.ended('m1')
      assert.equal([phase, attempt.number], ['completed', 2])
      assert.is(verdictsWhenResumed[0], undefined)
      assert.equal(places(fleet), ['rack2 running'])
    },
  )
})

test('no secret stands in the log in clear (I11)', () =>
  withFleet(two, { vm: { ...quietVm, pagesPerSecond: Number(SECRET) } }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1' })
    await fleet.ended('m1')
    let isSealed = false
    for await (const entry of fleet.log.read({ after: 0 })) {
      const text = JSON.stringify(entry)
      assert.not.match(text, SECRET)
      assert.not.match(text, Buffer.from(SECRET).toString('base64').slice(0, 12))
      isSealed ||= text.includes('sealedDefinition')
    }
    assert.ok(isSealed)
  }))

/** Stands in the guest's definition, which only the target may read. */
const SECRET = '2345.678901'

/** Takes a second or so to copy, and a policy under which it is never done. */
const slowVm = { memoryMiB: 16, pagesPerSecond: 20_000 }
const neverDone = { bandwidthBytesPerSecond: 8_000_000, downtimeMs: 1 }

const isCopying = ({ attempt }: Migration) => attempt.facts.RoundPassed !== undefined

test.run()

import { once } from 'node:events'
import { systemClock, within } from '@ferry/events/clock'
import type { GuestState } from '@ferry/schemas/guest'
import { CopyFailed } from '@ferry/host-agent/driver'
import type { Driver, PerformOrder } from '@ferry/host-agent/driver'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { testDial } from '../dial.ts'
import { failureOf } from '../failure.ts'
import { until } from '../until.ts'
import { nobodyTells, openWire, performOrder, receiveOrder } from './wire.ts'
import type { Wire } from './wire.ts'

/**
 * The promises of a Driver (D1 to D6 in `host-agent/driver.ts`). Each call is made twice, each is made by an agent that
 * was killed right after it and once more by its successor, and each that can fail fails here.
 */
export type DriverHost = {
  readonly driver: () => Driver
  /** The agent is gone with all that it knew, and another one has come. */
  readonly crash: () => Promise<void>
  /** What is wrong with the guest's memory, and how far it has counted. */
  readonly memory: (vm: string) => Promise<{ fault: string | undefined; sweeps: number }>
}

export type DriverHosts = {
  readonly source: DriverHost
  readonly target: DriverHost
  /** Describes a small guest that writes to its memory without rest. */
  readonly define: (vm: string) => Promise<void>
  /** How often a guest may be looked at; absent: as often as one likes. */
  readonly lookEveryMs?: number
  /** How slow hosts are that are not of iron; absent: as fast as those are. */
  readonly slow?: {
    /** A limit that they are faster than, whatever else this machine does. */
    readonly bytesPerSecond: number
    readonly patienceMs: number
  }
  readonly close: () => Promise<void>
}

const GOES_ON_MS = 60_000
/** Less than any host is in a hurry, and no less than libvirt can be told. */
const SLOW_BYTES_PER_SECOND = 2 ** 20

export function driverContract(name: string, open: () => Promise<DriverHosts>): void {
  const test = suite(`the driver ${name}`)
  let hosts: DriverHosts
  let number = 0

  test.before(async () => {
    hosts = await open()
  })
  test.after(async () => hosts.close())

  const patienceMs = () => hosts.slow?.patienceMs ?? GOES_ON_MS
  const source = () => hosts.source.driver()
  const target = () => hosts.target.driver()
  /** A guest of its own for each test, running on the source. */
  const started = async (): Promise<string> => {
    number += 1
    const vm = `guest${number}`
    await hosts.define(vm)
    const answer = await source().start(vm)
    assert.ok('needs' in answer, JSON.stringify(answer))
    return vm
  }
  const landingOf = async (vm: string, attempt = 1) => {
    const begun = await source().begin(vm)
    if ('refusal' in begun) throw new Error(`${vm} may not leave: ${JSON.stringify(begun)}`)
    return { vm, ...begun, migration: `m-${vm}`, attempt }
  }
  /** What the target's hypervisor had to say to the source's about each guest. */
  const cookies = new Map<string, string>()
  const prepare = async (vm: string, attempt = 1) =>
    isPrepared(vm, await target().prepare(await landingOf(vm, attempt)))
  const isPrepared = (vm: string, answer: Awaited<ReturnType<Driver['prepare']>>): void => {
    if (answer !== undefined && 'type' in answer) throw new Error(JSON.stringify(answer))
    if (answer !== undefined) cookies.set(vm, answer.cookie)
  }
  const prepared = async (): Promise<string> => {
    const vm = await started()
    await prepare(vm)
    return vm
  }
  /** Rule 2: the target hears that this was all when the source's hypervisor has said so, and not before. */
  const perform = async (vm: string, wire: Wire, more: Partial<PerformOrder> = {}) => {
    const cookie = cookies.get(vm)
    const its = cookie === undefined ? {} : { cookie }
    const sent = await source().perform(vm, { ...performOrder(wire), ...its, ...more })
    wire.end()
    return sent
  }
  /** Both ends have done their part: paused and whole at the source, complete and not started at the target. */
  const loaded = async (): Promise<string> => {
    const vm = await prepared()
    const { sent, received } = await copy(vm)
    assert.ok(sent.pausedAt > 0 && sent.gatePassedAt >= sent.pausedAt, JSON.stringify(sent))
    assert.ok(sent.sentAt >= sent.gatePassedAt && received.loadedAt > 0)
    return vm
  }
  const copy = async (vm: string, wire = openWire(), orders: Partial<PerformOrder> = {}) => {
    const [sent, received] = await Promise.all([
      perform(vm, wire, orders),
      target().receive(vm, receiveOrder(wire)),
    ])
    return { sent, received }
  }
  const stateOn = async (host: DriverHost, vm: string): Promise<GuestState | undefined> =>
    (await host.driver().inspect()).find((guest) => guest.vm === vm)?.state
  const states = async (vm: string) => [
    await stateOn(hosts.source, vm),
    await stateOn(hosts.target, vm),
  ]
  const isWhole = async (host: DriverHost, vm: string) => {
    const before = await host.memory(vm)
    assert.is(before.fault, undefined)
    const goesOn = async () => (await host.memory(vm)).sweeps > before.sweeps
    await until('the guest to go on', goesOn, patienceMs(), hosts.lookEveryMs)
    assert.is((await host.memory(vm)).fault, undefined)
  }
  /** Twice by one agent, and once more by the next. */
  const thrice = async <T>(
    host: DriverHost,
    call: (driver: Driver) => Promise<T>,
  ): Promise<[T, T, T]> => {
    const first = await call(host.driver())
    const again = await call(host.driver())
    await host.crash()
    return [first, again, await call(host.driver())]
  }

  test('starts a guest, and says again that it runs', async () => {
    const vm = await started()
    const [first, again, after] = await thrice(hosts.source, (driver) => driver.start(vm))
    assert.equal([again, after], [first, first])
    assert.equal(await states(vm), ['running', undefined])
    await isWhole(hosts.source, vm)
  })

  test('refuses to start what nobody described', async () => {
    const answer = await source().start('nobody')
    assert.equal(answer, { refusal: { type: 'UnknownDefinition', vm: 'nobody' } })
    assert.is(await stateOn(hosts.source, 'nobody'), undefined)
  })

  test('begins without changing anything', async () => {
    const vm = await started()
    const [first, again, after] = await thrice(hosts.source, (driver) => driver.begin(vm))
    assert.ok('definition' in first)
    assert.equal([again, after], [first, first])
    assert.equal(await states(vm), ['running', undefined])
  })

  test('does not begin what is not here', async () => {
    assert.equal(await source().begin('nobody'), { refusal: { type: 'GuestGone', vm: 'nobody' } })
  })

  test('prepares a copy that does not run', async () => {
    const vm = await started()
    const landing = await landingOf(vm)
    const [first, again, after] = await thrice(hosts.target, (driver) => driver.prepare(landing))
    isPrepared(vm, first)
    assert.equal([again, after], [first, first])
    assert.equal(await states(vm), ['running', 'receiving'])
  })

  test('a copy shows which attempt it was made for, until it is started', async () => {
    const vm = await prepared()
    const { migration, attempt } = await landingOf(vm)
    const mark = async () => (await target().inspect()).find((guest) => guest.vm === vm)?.receives
    assert.equal(await mark(), { migration, attempt })
    await copy(vm)
    assert.equal(await mark(), { migration, attempt })
    await target().activate(vm)
    assert.is(await mark(), undefined)
  })

  test('looked at by everybody at once, a new agent finds its copies', async () => {
    const vm = await prepared()
    await hosts.target.crash()
    const looks = [1, 2, 3].map(() => stateOn(hosts.target, vm))
    assert.equal(await Promise.all(looks), ['receiving', 'receiving', 'receiving'])
    await copy(vm)
    assert.is(await stateOn(hosts.target, vm), 'loaded')
  })

  test('a copy that was made for an earlier attempt gives way', async () => {
    const vm = await prepared()
    await prepare(vm, 2)
    assert.equal(await states(vm), ['running', 'receiving'])
    assert.ok((await copy(vm)).received.loadedAt > 0)
  })

  test('does not prepare where the guest runs', async () => {
    const vm = await started()
    assert.equal(await source().prepare(await landingOf(vm)), {
      type: 'GuestAlreadyHere',
      vm,
      state: 'running',
    })
    await isWhole(hosts.source, vm)
  })

  test('does not prepare what has no room', async () => {
    const vm = await started()
    const landing = await landingOf(vm)
    const definition = landing.definition.replace(/"memoryMiB":\d+/, '"memoryMiB":4000')
    const refusal = await target().prepare({ ...landing, definition })
    assert.is(refusal && 'type' in refusal && refusal.type, 'NotEnoughMemory')
    assert.is(await stateOn(hosts.target, vm), undefined)
  })

  test('does not prepare from a definition that is wrong', async () => {
    const vm = await started()
    const landing = await landingOf(vm)
    for (const definition of ['{"memoryMiB":"lots"}', 'a guest']) {
      const refusal = await target().prepare({ ...landing, definition })
      assert.is(refusal && 'type' in refusal && refusal.type, 'DefinitionInvalid', definition)
    }
    assert.is(await stateOn(hosts.target, vm), undefined)
  })

  test('copies: paused and whole at the source, complete and not started at the target', async () => {
    const vm = await loaded()
    assert.equal(await states(vm), ['sent', 'loaded'])
    await hosts.source.crash()
    await hosts.target.crash()
    assert.equal(await states(vm), ['sent', 'loaded'])
  })

  test('moves a guest whose memory is right on the other side', async () => {
    const vm = await loaded()
    const before = await hosts.source.memory(vm)
    const [first, again, after] = await thrice(hosts.target, (driver) => driver.activate(vm))
    const [firstAt = 0, againAt = 0, afterAt = 0] = [first, again, after].map((it) => it.runningAt)
    assert.ok(0 < firstAt && firstAt <= againAt && againAt <= afterAt)
    assert.equal(await states(vm), ['sent', 'running'])
    await isWhole(hosts.target, vm)
    assert.ok((await hosts.target.memory(vm)).sweeps >= before.sweeps)
    await thrice(hosts.source, (driver) => driver.release(vm))
    assert.equal(await states(vm), [undefined, 'running'])
    await isWhole(hosts.target, vm)
  })

  test('a whole copy at the source runs on at home', async () => {
    const vm = await loaded()
    await thrice(hosts.target, (driver) => driver.clear(vm))
    const [first, again, after] = await thrice(hosts.source, (driver) => driver.resume(vm))
    assert.equal([first?.wasPaused, again?.wasPaused, after?.wasPaused], [true, false, false])
    assert.equal(await states(vm), ['running', undefined])
    await isWhole(hosts.source, vm)
  })

  test('a whole copy at the source runs on at home while the target still has what was sent', async () => {
    const vm = await loaded()
    await source().resume(vm)
    assert.equal(await states(vm), ['running', 'loaded'])
    await isWhole(hosts.source, vm)
    await target().clear(vm)
    assert.equal(await states(vm), ['running', undefined])
  })

  test('a guest that is not here cannot resume, and that is an answer', async () => {
    assert.is(await source().resume('nobody'), undefined)
    await source().release('nobody')
    await source().clear('nobody')
  })

  test('what was sent or loaded by another agent is not sent or loaded again', async () => {
    const vm = await loaded()
    await hosts.source.crash()
    await hosts.target.crash()
    const wire = openWire()
    assert.is((await failureOf(perform(vm, wire))).type, 'AgentRestarted')
    assert.is((await failureOf(target().receive(vm, receiveOrder(wire)))).type, 'AgentRestarted')
    assert.equal(await states(vm), ['sent', 'loaded'])
  })

  test('clears no copy that has run', async () => {
    const vm = await loaded()
    await target().activate(vm)
    await thrice(hosts.target, (driver) => driver.clear(vm))
    assert.is(await stateOn(hosts.target, vm), 'running')
    await isWhole(hosts.target, vm)
    await source().clear(vm)
    assert.is(await stateOn(hosts.source, vm), 'sent')
  })

  test('a gate that does not open lets the guest run on at once, and says why', async () => {
    const vm = await prepared()
    const wire = openWire()
    const shut = () => Promise.reject(new CopyFailed({ type: 'LogSilent', silentForMs: 400 }))
    const receiving = failureOf(target().receive(vm, receiveOrder(wire)))
    const failure = await failureOf(perform(vm, wire, { gate: shut }))
    assert.equal(failure, { type: 'LogSilent', silentForMs: 400 })
    wire.cut()
    await receiving
    await until('it to run', async () => (await stateOn(hosts.source, vm)) === 'running')
    await isWhole(hosts.source, vm)
    await thrice(hosts.target, (driver) => driver.clear(vm))
    assert.is(await stateOn(hosts.target, vm), undefined)
    const resumed = await source().resume(vm)
    assert.is(resumed?.wasPaused, false)
  })

  test('a stream that breaks leaves the guest running at home, and it can be moved after that', async () => {
    const vm = await prepared()
    const wire = openWire(100_000)
    const receiving = failureOf(target().receive(vm, receiveOrder(wire)))
    assert.is((await failureOf(perform(vm, wire))).type, 'StreamBroken')
    assert.is((await receiving).type, 'StreamCut')
    await source().resume(vm)
    await target().clear(vm)
    assert.equal(await states(vm), ['running', undefined])
    await isWhole(hosts.source, vm)
    await prepare(vm, 2)
    await copy(vm)
    await target().activate(vm)
    await isWhole(hosts.target, vm)
  })

  test('told to stop, it stops, and the guest can go on at home', async () => {
    const vm = await prepared()
    const [wire, stop] = [openWire(), new AbortController()]
    const round = () => stop.abort(new Error('told to stop'))
    stop.signal.addEventListener('abort', wire.cut)
    // A hypervisor that needs no second round may be done before.
    await Promise.allSettled([
      perform(vm, wire, { round, signal: stop.signal }),
      target().receive(vm, { ...receiveOrder(wire), signal: stop.signal }),
    ])
    await target().clear(vm)
    await source().resume(vm)
    assert.equal(await states(vm), ['running', undefined])
    await isWhole(hosts.source, vm)
  })

  test('copying and receiving what is not here fails, and says so', async () => {
    const wire = openWire()
    assert.equal(await failureOf(perform('nobody', wire)), {
      type: 'GuestGone',
      vm: 'nobody',
    })
    assert.equal(await failureOf(target().receive('nobody', receiveOrder(wire))), {
      type: 'GuestGone',
      vm: 'nobody',
    })
  })

  test('losing its hypervisor while an image is waited for is no more than a copy that fails', async () => {
    const vm = await prepared()
    const [waiting, gone] = [new AbortController(), new AbortController()]
    const fill = async () => {
      waiting.abort()
      await once(gone.signal, 'abort')
      throw new CopyFailed({ type: 'StreamCut', receivedBytes: 0 })
    }
    const { signal } = new AbortController()
    const receiving = failureOf(target().receive(vm, { fill, signal, told: nobodyTells }))
    await until('the image to be waited for', () => waiting.signal.aborted)
    await hosts.target.crash()
    gone.abort()
    assert.equal(await receiving, { type: 'StreamCut', receivedBytes: 0 })
    await target().clear(vm)
    assert.equal(await states(vm), ['running', undefined])
  })

  test('tells of its rounds', async () => {
    const vm = await prepared()
    let rounds = 0
    const { sent } = await copy(vm, openWire(), { round: () => (rounds += 1) })
    assert.ok(rounds > 0 && sent.rounds >= rounds, `${rounds} of ${sent.rounds}`)
  })

  test('keeps to its limits, and to others that it is told of while it copies', async () => {
    const vm = await prepared()
    const wire = openWire()
    const bandwidthBytesPerSecond = hosts.slow?.bytesPerSecond ?? SLOW_BYTES_PER_SECOND
    // The guest writes more in a millisecond than may be sent in one: without the change this has no end.
    const dial = testDial({ bandwidthBytesPerSecond, downtimeMs: 1 })
    const began = systemClock.elapsed()
    const stop = new AbortController()
    const copying = copy(vm, wire, { dial, signal: stop.signal })
    // One that fails before it is waited for would end this process, and nobody would know with which test.
    copying.catch(() => {})
    const rateSince = (bytes: number, at: number) =>
      ((wire.passedBytes() - bytes) * 1000) / (systemClock.elapsed() - at)
    await until(
      'some of it to pass',
      () => wire.passedBytes() > bandwidthBytesPerSecond,
      patienceMs(),
    )
    const slow = rateSince(0, began)
    assert.ok(slow < 2 * bandwidthBytesPerSecond, `${slow} bytes a second`)

    const [bytes, at] = [wire.passedBytes(), systemClock.elapsed()]
    const { bandwidthBytesPerSecond: _, ...unlimited } = dial.policy()
    dial.turn({ ...unlimited, downtimeMs: 10_000 })
    try {
      await within(systemClock, patienceMs(), 'the end of the copy', copying)
    } finally {
      stop.abort()
    }
    const fast = rateSince(bytes, at)
    assert.ok(fast > 2 * bandwidthBytesPerSecond, `${fast} bytes a second`)
    await target().activate(vm)
    await isWhole(hosts.target, vm)
  })

  test('let go of while it looks, it does not hold on to a guest that the next one needs', async () => {
    const vm = await started()
    const looking = source()
      .inspect()
      .catch(() => {})
    await hosts.source.crash()
    await looking
    assert.equal(await states(vm), ['running', undefined])
  })

  test('lets go of its guests without touching them', async () => {
    const vm = await started()
    await source().close()
    await hosts.source.crash()
    await isWhole(hosts.source, vm)
  })

  test.run()
}

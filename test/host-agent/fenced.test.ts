import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fenceCommands } from '@ferry/coordinator/fences'
import { systemClock, timestamp } from '@ferry/events/clock'
import type { Log } from '@ferry/events/log'
import { NeverStarted } from '@ferry/host-agent/driver'
import type { Driver } from '@ferry/host-agent/driver'
import type { Event, Writer } from '@ferry/schemas/event'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { places, silent, withFleet } from '../fleet-in-process.ts'
import type { FleetInProcess } from '../fleet-in-process.ts'
import { until } from '../until.ts'

/** Committed, and then the target is not heard of any more: what a fence does, and what comes after it. */
const test = suite('a fenced target')

const two = ['rack1', 'rack2']
const rules = { doubtMs: 300, settleMs: 500 }

/** The guest runs on its target, and the target's agent is held back before it can say so. */
function heldBehindStart() {
  let decide: ((fate: 'dies' | 'lives') => void) | undefined
  let isReached = false
  const fate = new Promise<'dies' | 'lives'>((resolve) => {
    decide = resolve
  })
  let isFirst = true
  const drivers = (driver: Driver, host: string): Driver => ({
    ...driver,
    activate: async (vm) => {
      const running = await driver.activate(vm)
      if (host !== 'rack2' || !isFirst) return running
      isFirst = false
      isReached = true
      if ((await fate) === 'dies') throw new Error('the agent dies here')
      return running
    },
  })
  const letGo = (fate: 'dies' | 'lives') => decide?.(fate)
  return { drivers, letGo, reached: () => until('the guest to run', () => isReached) }
}

async function eventsOf({ log }: FleetInProcess): Promise<Event[]> {
  const events: Event[] = []
  for await (const { message } of log.read({ after: 0 }))
    if (message.is === 'event') events.push(message.event)
  return events
}

/** Starts a move whose target dies behind the verdict, with the guest running there. */
async function loseTarget(
  fleet: FleetInProcess,
  { letGo, reached }: ReturnType<typeof heldBehindStart>,
): Promise<void> {
  await fleet.start('web1', 'rack1')
  await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
  await reached()
  const stopped = fleet.hosts.get('rack2')?.stopAgent()
  letGo('dies')
  await stopped
}

test('is asked about, resolved, and ends its stale copy before anything else when it returns', async () => {
  const held = heldBehindStart()
  await withFleet(two, { drivers: held.drivers, rules }, async (fleet) => {
    await loseTarget(fleet, held)
    const { attempt } = await fleet.when('m1', ({ phase }) => phase === 'inDoubt', 'to be in doubt')
    assert.match(attempt.doubt?.question ?? '', 'ferry resolve m1 --fenced rack2')
    assert.equal(places(fleet), ['rack1 sent', 'rack2 running'])

    await until('the host to count as lost', async () => {
      const answer = await fleet.resolve({ migration: 'm1', fenced: 'rack2' })
      const reason = answer.accepted ? 'HostAlive' : answer.refusal.type
      assert.ok(['HostAlive', 'NotSilentYet'].includes(reason), JSON.stringify(answer))
      return answer.accepted
    })
    const { phase, end } = await fleet.ended('m1')
    assert.is(phase, 'abandoned')
    assert.equal(end?.openDuties, [{ host: 'rack2', command: 'Cancel' }])
    // Nobody has really turned rack2 off: its copy is what a host that was cut off comes back with.
    assert.equal(places(fleet), ['rack1 running', 'rack2 running'])

    const before = (await eventsOf(fleet)).length
    fleet.hosts.get('rack2')?.startAgent()
    await until('the stale copy to be gone', () => places(fleet).join() === 'rack1 running')
    await until('rack2 to be heard', () => fleet.coordinator().world().alive.has('rack2'))
    const said = (await eventsOf(fleet)).slice(before)
    const first = said.find(({ writer }) => 'host' in writer && writer.host === 'rack2')
    assert.ok(first?.type === 'TargetCleared', first?.type)
    assert.is(first.data.found, 'running')

    // And all is well: the guest may go there again, and stays when that agent is replaced once more.
    await fleet.migrate({ request: 'm2', vm: 'web1', target: 'rack2' })
    assert.is((await fleet.ended('m2')).phase, 'completed')
    await fleet.hosts.get('rack2')?.stopAgent()
    fleet.hosts.get('rack2')?.startAgent()
    await fleet.migrate({ request: 'm3', vm: 'web1', target: 'rack1' })
    assert.is((await fleet.ended('m3')).phase, 'completed')
  })
})

test('that was only cut off ends its running copy when it hears of the fence', async () => {
  const held = heldBehindStart()
  await withFleet(two, { drivers: held.drivers, rules }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    await held.reached()
    await fleet.when('m1', ({ phase }) => phase === 'inDoubt', 'to be in doubt')
    const answer = await fleet.resolve({ migration: 'm1', fenced: 'rack2', insist: true })
    assert.ok(answer.accepted, JSON.stringify(answer))
    held.letGo('lives')
    await fleet.ended('m1')
    await until('the stale copy to be gone', () => places(fleet).join() === 'rack1 running')
    await until('rack2 to have said so', async () =>
      (await eventsOf(fleet)).some(
        (event) => event.type === 'TargetCleared' && event.data.found === 'running',
      ),
    )
  })
})

test('a fence of an attempt that is over is settled by its late command, and the guest may go there again', async () => {
  let hasFailed = false
  const drivers = (driver: Driver): Driver => ({
    ...driver,
    activate: (vm) => {
      if (hasFailed) return driver.activate(vm)
      hasFailed = true
      return Promise.reject(new NeverStarted({ type: 'HypervisorFailed', message: 'no luck' }))
    },
  })
  let tryAgain = () => {}
  const isTriedAgain = new Promise<void>((resolve) => {
    tryAgain = resolve
  })
  const logs = (log: Log, writer: Writer): Log => ({
    ...log,
    async *deliveries(receiver) {
      for await (const delivery of log.deliveries(receiver)) {
        const { message } = delivery.entry
        const isLate = message.is === 'event' && message.event.type === 'Cancel'
        if (isLate && 'host' in writer && writer.host === 'rack2') await isTriedAgain
        yield delivery
      }
    },
  })
  await withFleet(two, { drivers, logs, rules }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    await fleet.when('m1', ({ attempt }) => attempt.number === 2, 'to be tried again')
    tryAgain()
    const { phase, attempt } = await fleet.ended('m1')
    assert.equal([phase, attempt.number], ['completed', 2])
    assert.equal(places(fleet), ['rack2 running'])
  })
})

test('a fence that does not count lets no source go on (I1)', async () => {
  const held = heldBehindStart()
  const complaints: string[] = []
  const say = { ...silent, error: (...words: unknown[]) => void complaints.push(words.join()) }
  await withFleet(two, { drivers: held.drivers, say }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    await held.reached()
    const { attempt } = await fleet.when('m1', ({ phase }) => phase === 'activating', 'to commit')
    const envelope = (id: string) => ({
      id,
      writer: { coordinator: 'late' },
      time: timestamp(systemClock.now()),
      vm: 'web1',
      migration: 'm1',
      attempt: 1,
    })
    // Its `after` is not the head: whoever wrote it had not read what was decided before.
    const { position: fence } = await fleet.log.append({
      ...envelope('late-fence'),
      type: 'Fenced',
      data: { after: 0, host: 'rack2', by: 'late', evidence: 'none' },
    })
    await fleet.log.append({
      ...envelope('late-cancel'),
      type: 'Cancel',
      data: {
        host: 'rack1',
        admission: attempt.slot?.admission ?? 0,
        role: 'source',
        target: 'rack2',
        fence,
      },
    })
    await until('the source to have refused', () => complaints.join().includes('refused'))
    assert.equal(places(fleet), ['rack1 sent', 'rack2 running'])
    held.letGo('lives')
    assert.is((await fleet.ended('m1')).phase, 'completed')
    assert.equal(places(fleet), ['rack2 running'])
  })
})

const SECRET = 'correct horse battery'

/** A fence command that notes each call and then does what the body says. */
async function withFence(body: string, work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-fence-'))
  const head = `#!${process.execPath}
    const fs = require('node:fs')
    const given = fs.readFileSync(0, 'utf8')
    const isFirst = !fs.existsSync(__dirname + '/called')
    fs.writeFileSync(__dirname + '/called', '')
    `
  try {
    await writeFile(join(folder, 'fence_test'), head + body, { mode: 0o755 })
    await work(folder)
  } finally {
    await rm(folder, { recursive: true })
  }
}
const fencesIn = (folder: string) =>
  fenceCommands(
    { rack2: { command: [join(folder, 'fence_test')], options: { password: SECRET } } },
    systemClock,
  )

test('is turned off by its command; one that a dying coordinator broke off is begun again by the next', () =>
  withFence(
    "if (isFirst) setInterval(() => {}, 1000); else process.exit(given.includes('action=off') ? 0 : 2)",
    async (folder) => {
      const held = heldBehindStart()
      const fences = fencesIn(folder)
      await withFleet(two, { drivers: held.drivers, rules, fences }, async (fleet) => {
        await loseTarget(fleet, held)
        await until('the command to hang', () => existsSync(join(folder, 'called')))
        await fleet.replaceCoordinator()
        const { phase, attempt } = await fleet.ended('m1')
        assert.is(phase, 'abandoned')
        assert.is(attempt.fence?.by, 'fence_test')
        assert.match(attempt.fence?.evidence ?? '', 'off ended with 0')
        assert.equal(places(fleet), ['rack1 running', 'rack2 running'])
        assert.not.match(JSON.stringify(await eventsOf(fleet)), SECRET)
      })
    },
  ))

test('a command that fails is on record, without its secret, and the question stands', () =>
  withFence('console.error(given); process.exit(1)', async (folder) => {
    const held = heldBehindStart()
    const fences = fencesIn(folder)
    await withFleet(two, { drivers: held.drivers, rules, fences }, async (fleet) => {
      await loseTarget(fleet, held)
      const { phase, attempt } = await fleet.when(
        'm1',
        (migration) => migration.attempt.fenceFailed !== undefined,
        'to have failed',
      )
      assert.is(phase, 'inDoubt')
      assert.match(attempt.fenceFailed?.evidence ?? '', 'off ended with 1')
      assert.not.match(JSON.stringify(await eventsOf(fleet)), SECRET)
      assert.ok((await fleet.resolve({ migration: 'm1', fenced: 'rack2' })).accepted)
      assert.is((await fleet.ended('m1')).phase, 'abandoned')
    })
  }))

test.run()

import { readTimeline } from '@ferry/coordinator/cli/explain'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { systemClock } from '@ferry/events/clock'
import { smallGuest } from '../guest/boot-sector.ts'
import { until } from '../until.ts'
import { withLab } from './lab.ts'
import type { Lab } from './lab.ts'
import { hasSwept, migrationStatusIn } from './outside.ts'
import type { QemuProcess } from './outside.ts'

const test = suite('while memory is copied')

/** Never done: the guest writes a hundred times faster, and no pause is allowed in which the rest could be sent. */
const slowly = { bandwidthBytesPerSecond: 1_000_000, downtimeMs: 1 }

/** Whatever is left may be sent while the guest is paused: as an operator would say it. */
async function letThrough(lab: Lab, migration: string): Promise<void> {
  const { code, stdout, stderr } = await lab.ferry('limit', migration, ...LET_THROUGH)
  assert.is(code, 0, stderr)
  assert.match(stdout, `The limits of ${migration} stand in the log at position`)
}
const LET_THROUGH = ['--bandwidth', 'none', '--downtime', '60000']

/** Switched over after the first round, in which its eight megabytes take so many seconds. */
const onceThroughIn = (seconds: number) => ({
  bandwidthBytesPerSecond: Math.round(8e6 / seconds),
  downtimeMs: 2000 * seconds,
})

const withGuest = (work: (lab: Lab) => Promise<void>) =>
  withLab({ hosts: ['rack1', 'rack2'], driver: 'qemu', isCuttable: true }, async (lab) => {
    await lab.defineGuest('web1', { program: smallGuest, memoryMiB: 64 })
    await lab.start('web1', 'rack1')
    const { folder } = await lab.onlyRunning()
    // Until it is past its BIOS it changes so little that it would be copied in no time.
    await until('the guest to write', () => hasSwept(folder, smallGuest))
    await work(lab)
  })

/** Starts a migration, and waits until bytes flow. */
async function copying(lab: Lab, request: string, policy: object = slowly): Promise<void> {
  const performing = lab.event(`${request} to be performed`, ({ type }) => type === 'Perform')
  const answer = await lab.migrate({ request, vm: 'web1', target: 'rack2', policy })
  assert.ok(answer.accepted, JSON.stringify(answer))
  await performing
  const { passedBytes } = lab.link('rack2')
  const before = passedBytes()
  await until('the image to flow', () => passedBytes() > before + 100_000)
}

/** One QEMU in the world, on that host, running, with its memory whole and its counter going on. */
async function onlyOn(lab: Lab, host: string): Promise<void> {
  const { folder } = await lab.onlyRunning()
  assert.ok(folder.includes(`/${host}/`), folder)
  assert.is((await lab.qemus()).length, 1)
  const before = await lab.memory('web1', smallGuest)
  assert.is(before.fault, undefined)
  await until('the guest to go on', async () => {
    const { fault, sweeps } = await lab.memory('web1', smallGuest)
    assert.is(fault, undefined)
    return sweeps > before.sweeps
  })
}

test('it can be cancelled: the guest goes on at home, and nothing is left on the target', () =>
  withGuest(async (lab) => {
    await copying(lab, 'm1')
    assert.ok((await lab.cancel('m1')).accepted)
    const { phase, cause } = await lab.ended('m1')
    assert.is(phase, 'abandoned')
    assert.equal(cause, { type: 'Asked', by: 'lab' })
    await onlyOn(lab, 'rack1')
    await copying(lab, 'm2', {})
    assert.is((await lab.ended('m2')).phase, 'completed')
    await onlyOn(lab, 'rack2')
  }))

test("the target's QEMU may die: the guest goes on at home", () =>
  withGuest(async (lab) => {
    await copying(lab, 'm1', { ...slowly, attempts: 1 })
    const target = (await lab.qemus()).find(({ folder }) => folder.includes('/rack2/'))
    assert.ok(target)
    process.kill(target.pid, 'SIGKILL')
    assert.is((await lab.ended('m1')).phase, 'abandoned')
    const { attempts } = await readTimeline(lab.connection, 'm1')
    assert.ok(attempts[0]?.said.some(({ what }) => what === 'ReceiveFailed'))
    await onlyOn(lab, 'rack1')
  }))

test('the stream may be cut: the log says so, the guest goes on at home, and another attempt begins', () =>
  withGuest(async (lab) => {
    await copying(lab, 'm1', { ...slowly, attempts: 2 })
    // Whoever says it first; the other one may have been told to stop by then.
    const failed = lab.event('one of them to say so', ({ type }) => type.endsWith('Failed'))
    lab.link('rack2').cut()
    const { type, data } = await failed
    const expected = type === 'PerformFailed' ? 'StreamBroken' : 'StreamCut'
    assert.is('failure' in data && data.failure.type, expected)
    await lab.event('the second attempt', ({ type }) => type === 'Perform')
    assert.ok((await lab.cancel('m1')).accepted)
    assert.is((await lab.ended('m1')).phase, 'abandoned')
    await onlyOn(lab, 'rack1')
  }))

test('its limits may be changed by those who did not begin it: it arrives in the first attempt', () =>
  withGuest(async (lab) => {
    await copying(lab, 'm1')
    const agent = lab.agent('rack1')
    await agent.end('SIGKILL')
    agent.start()
    await letThrough(lab, 'm1')
    const { phase, attempt, policy } = await lab.ended('m1')
    assert.is(phase, 'completed')
    assert.is(attempt, 1)
    assert.is(policy.bandwidthBytesPerSecond, undefined)
    assert.is(policy.downtimeMs, 60_000)
    await onlyOn(lab, 'rack2')

    const late = await lab.ferry('limit', 'm1', '--downtime', '1')
    assert.is(late.code, 3, late.stdout)
    assert.match(late.stderr, 'm1')
    const none = await lab.ferry('limit', 'm1')
    assert.is(none.code, 2, none.stdout)
  }))

test('a guest that changes more than can be sent is slowed down where that is wished for, and arrives', () =>
  withGuest(async (lab) => {
    const slowedDown = lab.event(
      'the guest to be slowed down',
      (event) => event.type === 'RoundPassed' && event.data.throttlePercent > 0,
    )
    await copying(lab, 'm1', { ...slowly, bandwidthBytesPerSecond: 8_000_000, autoConverge: true })
    await slowedDown
    await letThrough(lab, 'm1')
    const { phase, attempt } = await lab.ended('m1')
    assert.is(phase, 'completed')
    assert.is(attempt, 1)
    await onlyOn(lab, 'rack2')
  }))

const isRunning = ({ status }: QemuProcess) => status === 'running'

/** Looks at the world without a log until that is back: the guest runs on one host, and never stops. */
async function withoutLog(lab: Lab, { pid }: QemuProcess, ms: number): Promise<void> {
  const until = systemClock.elapsed() + ms
  while (systemClock.elapsed() < until) {
    assert.is((await lab.onlyRunning()).pid, pid)
    await systemClock.sleep(100)
  }
  await lab.startLog()
}

test('the log may be away for ten seconds: the copying goes on, and the guest arrives in the first attempt', () =>
  withGuest(async (lab) => {
    const source = await lab.onlyRunning()
    await copying(lab, 'm1')
    await lab.stopLog()
    await withoutLog(lab, source, 10_000)
    const hosts = async () => (await lab.fleet()).hosts
    await until('all to hear the log', async () => (await hosts()).every(({ isAlive }) => isAlive))
    await letThrough(lab, 'm1')
    const { phase, attempt } = await lab.ended('m1')
    assert.is(phase, 'completed')
    assert.is(attempt, 1)
    await onlyOn(lab, 'rack2')
  }))

test('a log that is away when the guest is to be switched over sends it home, and it arrives when the log is back', () =>
  withGuest(async (lab) => {
    const source = await lab.onlyRunning()
    await copying(lab, 'm1', onceThroughIn(2))
    await lab.stopLog()
    await until(
      'the copy to be given up',
      async () => (await migrationStatusIn(source.folder)) === 'cancelled',
    )
    // QEMU says so a moment before the guest goes on.
    await until('the guest to go on', async () => (await lab.qemus()).some(isRunning))
    await withoutLog(lab, source, 2000)
    const { phase, attempt } = await lab.ended('m1')
    assert.is(phase, 'completed')
    assert.is(attempt, 2)
    await onlyOn(lab, 'rack2')
  }))

test.run()

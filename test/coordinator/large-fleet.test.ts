import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { verbsOf } from '@ferry/coordinator/api'
import { startNatsServer } from '@ferry/coordinator/embedded/nats-server'
import type { NatsServer } from '@ferry/coordinator/embedded/nats-server'
import { defaultRules } from '@ferry/coordinator/decide/world'
import { sleepWith, systemClock } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { emptyFleet, note } from '@ferry/events/fleet'
import { connect } from '@ferry/events/log/connect'
import type { Connection } from '@ferry/events/log/connect'
import { LogUnavailable } from '@ferry/events/log'
import { RequestFailed, ask, serve } from '@ferry/events/log/requests'
import { parse } from '@ferry/schemas/parse'
import { FleetView } from '@ferry/schemas/view'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { RIGHT, abandoned, hostReported, requested } from '../events/examples.ts'
import { entryOf } from '../long-log.ts'
import { placed } from '../story.ts'

const test = suite('a large fleet')

const GUESTS = 20_000
const HOSTS = 400
const ANSWER_MS = 10_000
const ROOT = join(import.meta.dirname, '..', '..')

let folder: string
let server: NatsServer
let coordinator: Connection
let operator: Connection
/** The guests that the coordinator knows of. */
let fleet = emptyFleet()

/** As tools call them: the half of a name that tells guests apart hardly lets itself be compressed. */
const nameOf = (number: number) =>
  `prod-${createHash('sha256').update(`${number}`).digest('hex').slice(0, 24)}`

/** Guests on their hosts, each with a migration behind it. */
function fleetOf(guests: number, hosts: number) {
  const known = emptyFleet()
  let position = 0
  const tell = (event: ReturnType<typeof hostReported | typeof requested | typeof abandoned>) =>
    note(known, entryOf(placed(event, known), ++position))
  for (let host = 0; host < hosts; host++) {
    const here: { vm: string; state: 'running' }[] = []
    for (let guest = host; guest < guests; guest += hosts)
      here.push({ vm: nameOf(guest), state: 'running' })
    tell(hostReported(`rack${host}`, here))
  }
  for (let guest = 0; guest < guests; guest++) {
    const about = { vm: nameOf(guest), migration: `m${guest}`, after: RIGHT }
    tell(requested({ ...about, source: `rack${guest % hosts}`, target: 'rack1' }))
    tell(abandoned({ ...about }))
  }
  return known
}

test.before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ferry-large-'))
  server = await startNatsServer({ dataDirectory: folder })
  const open = (name: string) =>
    connect({ servers: [server.url], name }, systemClock, { create: { replicas: 1 } })
  coordinator = await open('coordinator')
  operator = await open('operator')
  const verbs = verbsOf({
    name: 'c1',
    fleet: () => fleet,
    world: () => ({
      now: Date.now(),
      alive: new Set(fleet.hosts.keys()),
      listenedMs: 60_000,
      known: new Set(fleet.hosts.keys()),
      canFence: new Set(),
      rules: defaultRules,
      me: { coordinator: 'c1' },
    }),
    caughtUp: async () => {},
    record: () => Promise.reject(new Error('nothing is recorded here')),
    ended: new Promise(() => {}),
  })
  await serve(coordinator.nc, { version: '0.1.0', description: 'for this test' }, verbs)
})

test.after(async () => {
  await operator.close()
  await coordinator.close()
  await server.stop()
  await rm(folder, { recursive: true })
})

test('is shown whole, though it does not fit into one message', async () => {
  fleet = fleetOf(GUESTS, HOSTS)
  const began = performance.now()
  const answer = await ask(operator.nc, systemClock, 'fleet', {}, ANSWER_MS)
  const tookMs = performance.now() - began
  const { hosts, guests } = parse(FleetView, answer, 'the answer to fleet')
  const bytes = JSON.stringify(answer).length
  console.log(`  ${GUESTS} guests: ${bytes} bytes, ${Math.round(tookMs)} ms`)
  assert.is(hosts.length, HOSTS)
  assert.equal(
    guests.map(({ vm }) => vm),
    Array.from({ length: GUESTS }, (_, number) => nameOf(number)).toSorted(),
  )
  assert.ok(bytes > (operator.nc.info?.max_payload ?? 0))
})

test('is shown while many of its guests wait, with why no host can take them', async () => {
  const waiting = 500
  fleet = fleetOf(GUESTS, HOSTS)
  for (let guest = 0; guest < waiting; guest++) {
    const about = { vm: nameOf(guest), migration: `again${guest}`, source: `rack${guest % HOSTS}` }
    note(fleet, entryOf(placed(requested(about), fleet), fleet.position + 1))
  }
  const answer = await ask(operator.nc, systemClock, 'fleet', {}, ANSWER_MS)
  const { guests } = parse(FleetView, answer, 'the answer to fleet')
  const told = guests.filter(({ migration }) => migration?.waitsFor?.startsWith('No host can'))
  assert.is(told.length, waiting)
})

test('is shown by the command line', async () => {
  fleet = fleetOf(GUESTS, HOSTS)
  const options = { cwd: ROOT, maxBuffer: 256 * 1024 * 1024 }
  const words = ['ferry.mjs', 'fleet', '--json', '--server', server.url]
  const { stdout } = await promisify(execFile)(process.execPath, words, options)
  assert.is(JSON.parse(stdout).guests.length, GUESTS)
})

test('an older release is told why it gets no answer, and gets the one of a fleet that fits', async () => {
  fleet = fleetOf(GUESTS, HOSTS)
  const late = await operator.nc.request('ferry.api.fleet', '{}', { timeout: ANSWER_MS })
  assert.match(late.headers?.get('Nats-Service-Error') ?? '', 'Ferry-Takes-Parts')
  fleet = fleetOf(100, 4)
  const whole = await operator.nc.request('ferry.api.fleet', '{}', { timeout: ANSWER_MS })
  assert.is(parse(FleetView, whole.json(), 'the answer to fleet').guests.length, 100)
})

test('an answer that is larger than any that may be sent is an error, and no silence', async () => {
  const text = 'x'.repeat(60 * 1024 * 1024)
  const verbs = { huge: { description: 'too large', answer: async () => text } }
  const service = await serve(coordinator.nc, { version: '0.1.0', description: 'huge' }, verbs)
  try {
    await ask(operator.nc, systemClock, 'huge', {}, ANSWER_MS)
    assert.unreachable('it was answered')
  } catch (error) {
    assert.instance(error, RequestFailed)
  } finally {
    await service.stop()
  }
})

test('a coordinator that is slow with it is given more time at each question', async () => {
  const never = { slow: { description: 'too slow', answer: () => new Promise(() => {}) } }
  const service = await serve(coordinator.nc, { version: '0.1.0', description: 'slow' }, never)
  const waits: number[] = []
  let elapsed = 0
  const after: Clock['after'] = (ms, act) => {
    waits.push(ms)
    const timer = setImmediate(() => {
      elapsed += ms
      act()
    })
    return () => clearImmediate(timer)
  }
  const hurried = { now: Date.now, elapsed: () => elapsed, after, sleep: sleepWith(after) }
  try {
    await ask(operator.nc, hurried, 'slow', {}, ANSWER_MS)
    assert.unreachable('it was answered')
  } catch (error) {
    assert.instance(error, LogUnavailable)
  } finally {
    await service.stop()
  }
  assert.equal(waits, [3000, 200, 6000, 200, 600])
})

test.run()

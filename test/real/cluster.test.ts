import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readTimeline } from '@ferry/coordinator/cli/explain'
import type { Event } from '@ferry/schemas/event'
import { isEvent } from '@ferry/events/entry'
import { smallGuest } from '../guest/boot-sector.ts'
import { until } from '../until.ts'
import { leaderOf, whole } from './cluster.ts'
import { openLab } from './lab.ts'
import type { Lab } from './lab.ts'
import { watchPauses } from './outside.ts'
import type { Pauses } from './outside.ts'

/** Three servers keep the log. Whatever becomes of them, the guest is moved once, and is paused only while they answer. */
const test = suite('a migration on a log of three servers')

let lab: Lab
let home = 'rack1'
let sweeps = 0
let number = 0

test.before(async () => {
  lab = await openLab({ hosts: ['rack1', 'rack2'], driver: 'qemu', isCuttable: true, servers: 3 })
  await lab.defineGuest('web1', { program: smallGuest, memoryMiB: 64 })
  await lab.start('web1', home)
})
test.after(async () => lab.close())

/** Switched over after the first round, in which its eight megabytes take two seconds. */
const inTwoSeconds = { bandwidthBytesPerSecond: 4_000_000, downtimeMs: 4000 }

/** A migration on its way: what it does to the guest on the source, and when its next event of a type stands in the log. */
type Moving = {
  readonly pauses: Pauses
  readonly inLog: (type: Event['type']) => Promise<unknown>
  readonly bytesFlow: () => Promise<void>
}

/** Moves the guest to the other host while something happens; then the world and the log have to agree. */
async function moved(
  title: string,
  happening: (moving: Moving) => Promise<void>,
  policy: object = {},
): Promise<void> {
  number += 1
  const migration = `m${number}`
  const target = home === 'rack1' ? 'rack2' : 'rack1'
  const pauses = await watchPauses((await lab.onlyRunning()).folder)
  const { passedBytes } = lab.link(target)
  const passedBefore = passedBytes()
  try {
    // It listens before there is anything to hear.
    const happened = happening({
      pauses,
      inLog: (type) => lab.event(`${type} of ${migration}`, (event) => event.type === type),
      bytesFlow: () => until('the image to flow', () => passedBytes() > passedBefore + 100_000),
    })
    happened.catch(() => {})
    const answer = await lab.migrate({ request: migration, vm: 'web1', target, policy })
    assert.ok(answer.accepted, JSON.stringify(answer))
    await happened
    assert.is((await lab.ended(migration)).phase, 'completed')
  } finally {
    pauses.close()
  }
  home = target
  // Heartbeats go through servers as well.
  await until('all hosts to be heard', async () =>
    (await lab.fleet()).hosts.every(({ isAlive }) => isAlive),
  )

  assert.is((await lab.qemus()).length, 1)
  assert.ok((await lab.onlyRunning()).folder.includes(`/${target}/`))
  const memory = await lab.memory('web1', smallGuest)
  assert.is(memory.fault, undefined)
  assert.ok(memory.sweeps > sweeps)
  sweeps = memory.sweeps

  const { attempts } = await readTimeline(lab.connection, migration)
  const figures = [
    `attempt ${attempts.length}`,
    ...pauses.ended().map((ms) => `paused for ${Math.round(ms)} ms and home again`),
    `downtime ${Math.round(attempts.at(-1)?.downtime?.ms ?? Number.NaN)} ms`,
  ]
  console.log(`  ${title}: ${figures.join(', ')}`)
}

/** Kills the server that leads the log when something has happened, and brings it back when another one leads. */
async function leaderKilled(happened: Promise<unknown>, meanwhile = async () => {}): Promise<void> {
  const leader = await leaderOf(lab.connection)
  await happened
  await lab.cluster.stop(leader, 'SIGKILL')
  await meanwhile()
  await leaderOf(lab.connection)
  await lab.cluster.start(leader)
  await whole(lab.connection)
}

for (const [phase, moment] of [
  ['preparing', 'MigrationBegun'],
  ['activating', 'Committed'],
] as const)
  test(`whose leader is killed while ${phase} completes`, () =>
    moved(`leader killed while ${phase}`, ({ inLog }) => leaderKilled(inLog(moment))))

/** Rule 5: the gate closes, so the guest goes on where it is, while nobody answers. */
const runsOnAtHome = (pauses: Pauses) => () =>
  until('the guest to run on at home', () => pauses.ended().length > 0)

test('whose leader is killed while memory is copied does not keep the guest paused for it', () =>
  moved(
    'leader killed while performing',
    ({ pauses, bytesFlow }) => leaderKilled(bytesFlow(), runsOnAtHome(pauses)),
    inTwoSeconds,
  ))

test('whose leader is killed when the guest has just been paused completes, or goes home and is tried again', () =>
  moved('leader killed while switching', ({ pauses }) => leaderKilled(pauses.first)))

test('whose servers all fall silent before the last moment lets the guest run on until they speak again', () =>
  moved(
    'all servers stopped while performing',
    async ({ pauses, bytesFlow }) => {
      await bytesFlow()
      lab.cluster.names.forEach((name) => lab.cluster.signal(name, 'SIGSTOP'))
      try {
        await runsOnAtHome(pauses)()
      } finally {
        lab.cluster.names.forEach((name) => lab.cluster.signal(name, 'SIGCONT'))
      }
      await whole(lab.connection)
    },
    inTwoSeconds,
  ))

test('leaves every event in the log once', async () => {
  const ids: string[] = []
  let position = 0
  for await (const entry of lab.connection.log.read({ after: 0 })) {
    assert.is(entry.position, position + 1)
    position = entry.position
    if (!isEvent(entry)) throw new Error(`position ${position} cannot be read`)
    ids.push(entry.message.event.id)
  }
  assert.is(new Set(ids).size, ids.length)
})

test.run()

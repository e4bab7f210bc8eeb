import { fenceReport } from '@ferry/coordinator/decide/fence'
import { judgeMigrate, judgeResolve, judgeStart } from '@ferry/coordinator/decide/request'
import type { World } from '@ferry/coordinator/decide/world'
import type { ResolveRequest } from '@ferry/schemas/request'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  cancel,
  RIGHT,
  abandoned,
  admitted,
  committed,
  doubtRaised,
  fenceFailed,
  fenced,
  finish,
  hostReported,
  migrationBegun,
  performed,
  requested,
  retried,
  sourcePaused,
  sourceResumed,
  targetCleared,
  targetFetching,
  targetNeverRan,
  targetPrepared,
  targetRunning,
  upToPerforming,
} from '../events/examples.ts'
import { given, worldAfter } from '../story.ts'
import type { Telling } from '../story.ts'

const test = suite('in doubt')

const inSwitching = [...upToPerforming(), sourcePaused({ admission: RIGHT })]
const activating = [...inSwitching, committed()]
const inDoubt = [...activating, doubtRaised()]
const silent: Partial<World> = { alive: new Set(['rack1']) }

const resolve = (
  telling: readonly Telling[],
  request: Partial<ResolveRequest> = {},
  about: Partial<World> = silent,
) => {
  const told = given(...telling)
  const wish = { migration: 'm1', fenced: 'rack2', by: 'ops', ...request }
  return judgeResolve(told.fleet, wish, worldAfter(told, 0, {}, about))
}
const reasonOf = (judgement: ReturnType<typeof resolve>) =>
  'refusal' in judgement ? judgement.refusal.type : Object.keys(judgement).join()

test('a fence is recorded as the next decision, with who says so and how it is known', () => {
  const judgement = resolve(inDoubt, { evidence: 'the plug is out' })
  const decided = 'decision' in judgement ? judgement.decision : undefined
  assert.equal(decided?.data, {
    after: inDoubt.length,
    host: 'rack2',
    by: 'ops',
    evidence: 'the plug is out',
  })
  // Nobody has to wait until the coordinator doubts as well.
  assert.is(reasonOf(resolve(activating)), 'decision')
})

test('asked twice, it is the same fence, also when all is over', () => {
  const recorded = { recorded: inDoubt.length + 1 }
  assert.equal(resolve([...inDoubt, fenced()]), recorded)
  assert.equal(resolve([...inDoubt, fenced(), sourceResumed(), abandoned()]), recorded)
})

const refusals: [string, readonly Telling[], Partial<ResolveRequest>, string][] = [
  ['a migration that nobody knows', inDoubt, { migration: 'm9' }, 'UnknownMigration'],
  ['one that is not committed', inSwitching, {}, 'NothingToFence'],
  ['one in the queue', upToPerforming().slice(0, 3), {}, 'NothingToFence'],
  ['a host that is not its target', inDoubt, { fenced: 'rack1' }, 'NotTheTarget'],
  ['a target that has answered meanwhile', [...inDoubt, targetRunning()], {}, 'TargetAnswered'],
]
for (const [what, telling, request, reason] of refusals)
  test(`refused: ${what}`, () => assert.is(reasonOf(resolve(telling, request)), reason))

test('a host that beats has not been fenced, unless somebody insists', () => {
  assert.is(reasonOf(resolve(inDoubt, {}, {})), 'HostAlive')
  assert.is(reasonOf(resolve(inDoubt, { insist: true }, {})), 'decision')
})

test('nor one that could not be heard until a moment ago', () => {
  const world = { ...silent, listenedMs: 5000 }
  assert.is(reasonOf(resolve(inDoubt, {}, world)), 'NotSilentYet')
  assert.is(reasonOf(resolve(inDoubt, { insist: true }, world)), 'decision')
})

test('behind the fence the source is asked to go on at once, whatever the target does', () => {
  const story = given(...inDoubt, fenced())
  story.next().is('Cancel → rack1', 'Cancel → rack2')
  for (const { data } of story.next().step.command)
    assert.is(data.host !== '' && 'fence' in data && data.fence, inDoubt.length + 1)
  const asked = [cancel('source'), cancel('target')]
  const { step } = given(...inDoubt, fenced(), asked, sourceResumed()).later(121_000)
  assert.equal(step.decide?.type === 'Abandoned' && step.decide.data, {
    after: inDoubt.length + 1,
    cause: { type: 'Fenced', host: 'rack2', by: 'test' },
    openDuties: [{ host: 'rack2', command: 'Cancel' }],
    guestLost: false,
  })
})

test('a fence that names another host, or comes behind the answer, is void', () => {
  assert.is(given(...inDoubt, fenced({ host: 'rack1' })).migration().phase, 'inDoubt')
  const answered = given(...inDoubt, targetRunning(), fenced())
  assert.is(answered.migration().phase, 'confirming')
  assert.equal(answered.fleet.guests.get('web1')?.stale, {})
})

test('a lost host is turned off where there is a command for it, and no other one', () => {
  const canFence = new Set(['rack2'])
  const story = given(...inDoubt)
  story.later(0, 'web1', { ...silent, canFence }).is('Finish → rack2', 'fence rack2')
  const asked = given(...inDoubt.slice(0, -2), finish(), ...inDoubt.slice(-2))
  asked.later(0, 'web1', { ...silent, canFence }).is('fence rack2')
  asked.later(0, 'web1', { canFence }).is()
  // Who could not hear anybody until a moment ago, as when the log was away, cannot say who is silent.
  asked.later(0, 'web1', { ...silent, canFence, listenedMs: 5000 }).is()
  asked.later(0, 'web1', silent).is()
  given(...activating, finish())
    .later(0, 'web1', { ...silent, canFence })
    .is()
})

test('a host is not turned off that has what nobody else has all of', () => {
  const world = { ...silent, canFence: new Set(['rack2']) }
  const paused = sourcePaused({ admission: RIGHT, offer: { bytes: 1 } })
  const offered = [...upToPerforming(), paused, committed()]
  const fenceIn = (...telling: readonly Telling[]) =>
    given(...telling, doubtRaised(), finish()).later(0, 'web1', world).step.fence
  // Until it has gone over its source may be whole.
  assert.is.not(fenceIn(...offered), undefined)
  assert.is(fenceIn(...offered, performed()), undefined)
  assert.is(fenceIn(...offered, targetFetching({ isBroken: true })), undefined)
})

test('a fence that failed is tried again, later and later, and then left to people', () => {
  const canFence = new Set(['rack2'])
  const failed = [...activating, finish(), doubtRaised(), fenceFailed()]
  given(...failed)
    .later(9_000, 'web1', { ...silent, canFence })
    .is()
  given(...failed)
    .later(10_000, 'web1', { ...silent, canFence })
    .is('fence rack2')
  const often = [...failed, ...Array.from({ length: 4 }, () => fenceFailed())]
  for (const laterMs of [50_000, 500_000])
    assert.is(given(...often).later(laterMs, 'web1', { ...silent, canFence }).step.fence, undefined)
})

test('what came of it is recorded only while somebody waits for it', () => {
  const report = (telling: readonly Telling[], isOff: boolean) => {
    const told = given(...telling)
    const admission = told.migration().attempt.slot?.admission ?? 0
    const guest = told.fleet.guests.get('web1')
    const outcome = { isOff, by: 'fence_test', evidence: 'off ended with 0' }
    return guest && fenceReport(guest, { host: 'rack2', admission }, outcome, worldAfter(told, 0))
  }
  assert.is(report(inDoubt, true)?.type, 'Fenced')
  assert.is(report(inDoubt, false)?.type, 'FenceFailed')
  assert.is(report([...inDoubt, targetRunning()], true), undefined)
  assert.is(report([...inDoubt, fenced()], true), undefined)
})

const settled = [...inDoubt, fenced(), sourceResumed(), abandoned()]
const ADMISSION = 4

test('a fenced host has a stale copy until it says that it is gone, however late', () => {
  const before = given(...settled)
  assert.is(before.fleet.guests.get('web1')?.stale.rack2?.admission, ADMISSION)
  const next = requested({ migration: 'm2', source: 'rack1' })
  const after = given(...settled, next, targetCleared({ admission: ADMISSION }))
  assert.equal(after.fleet.guests.get('web1')?.stale, {})
  assert.equal(after.rulings.at(-1), { touched: ['web1'] })
  const other = given(...settled, targetCleared({ admission: 3 }))
  assert.ok(other.fleet.guests.get('web1')?.stale.rack2)
  const forged = targetCleared({ admission: ADMISSION, writer: { host: 'rack1' } })
  assert.ok(given(...settled, forged).fleet.guests.get('web1')?.stale.rack2)
})

test('a copy that came behind the fence is not stale', () => {
  const again = [
    ...activating,
    targetNeverRan(),
    fenced(),
    sourceResumed(),
    retried(),
    admitted({ attempt: 2 }),
  ]
  assert.ok(given(...again).fleet.guests.get('web1')?.stale.rack2)
  const prepared = given(...again, migrationBegun({ attempt: 2 }), targetPrepared({ attempt: 2 }))
  assert.equal(prepared.fleet.guests.get('web1')?.stale, {})
  // What one attempt was told is not told to the next one.
  assert.is(prepared.migration().attempt.fence, undefined)
})

test('nothing is sent to a host, or started there, that may still have a stale copy', () => {
  const told = given(...settled)
  const world = worldAfter(told, 0)
  const moved = judgeMigrate(
    told.fleet,
    { request: 'm2', vm: 'web1', target: 'rack2', by: 'ops' },
    world,
  )
  assert.is(
    'refusal' in moved && moved.refusal.type === 'TargetUnfit' && moved.refusal.unfit.type,
    'StaleCopy',
  )
  const gone = given(...settled, hostReported('rack1', [], { asOf: 100 }))
  const started = judgeStart(
    gone.fleet,
    { request: 's1', vm: 'web1', host: 'rack2', by: 'ops' },
    worldAfter(gone, 0),
  )
  assert.is(
    'refusal' in started && started.refusal.type === 'TargetUnfit' && started.refusal.unfit.type,
    'StaleCopy',
  )
})

test.run()

import { defaultPolicy } from '@ferry/schemas/policy'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import {
  abandoned,
  admitted,
  begin,
  cancel,
  cancelAsked,
  cancelled,
  committed,
  completed,
  confirm,
  fenced,
  finish,
  hostReported,
  limitsSet,
  migrationBegun,
  perform,
  performFailed,
  performed,
  prepare,
  prepareRefused,
  receiveFailed,
  requested,
  retried,
  sourceLost,
  sourcePaused,
  sourceReleased,
  sourceResumed,
  targetCleared,
  targetFetching,
  targetNeverRan,
  targetPrepared,
  targetRunning,
  upToPerforming,
  RIGHT,
} from '../events/examples.ts'
import { given } from '../story.ts'

const hosts = [hostReported('rack1', [{ vm: 'web1', state: 'running' }]), hostReported('rack2')]
const performing = upToPerforming()
const paused = sourcePaused({ admission: RIGHT })
const switching = [...performing, paused]

test('a request gets a slot when there is one', () => {
  given(...hosts, requested())
    .next()
    .is('Admitted')
})

test('one question after the other, each when the last one is answered', () => {
  given(...hosts, requested(), admitted())
    .next()
    .is('Begin → rack1')
  given(...hosts, requested(), admitted(), begin())
    .next()
    .is()
  given(...hosts, requested(), admitted(), begin(), migrationBegun())
    .next()
    .is('Prepare → rack2')
  given(...performing)
    .next()
    .is('Perform → rack1', 'Finish → rack2')
  given(...switching, committed())
    .next()
    .is('Finish → rack2')
  given(...switching, committed(), targetRunning())
    .next()
    .is('Confirm → rack1')
  given(...switching, committed(), targetRunning(), sourceReleased())
    .next()
    .is('Completed')
  given(...switching, committed(), targetRunning(), sourceReleased(), completed())
    .next()
    .is()
})

test('a guest that its host has no more is not waited for; one that runs elsewhere as well is not moved', () => {
  const gone = given(...hosts, requested(), hostReported('rack1'))
  gone.next().is('Abandoned')
  // What another migration left there, and a log that lost its tail has forgotten, is not the guest.
  const left = hostReported('rack1', [{ vm: 'web1', state: 'sent' }])
  const elsewhere = hostReported('rack3', [{ vm: 'web1', state: 'running' }])
  const { step, is } = given(...hosts, requested(), left, elsewhere).next()
  is('Abandoned')
  assert.is(step.decide?.type === 'Abandoned' && step.decide.data.guestLost, false)
  const twice = given(
    ...hosts,
    requested(),
    hostReported('rack3', [{ vm: 'web1', state: 'running' }]),
  )
  twice.next().is()
})

test('a definition that was sealed for a key of before is sealed again, for a target that was asked for too', () => {
  const refused = prepareRefused({ refusal: { type: 'DefinitionSealed', host: 'rack2' } })
  const { next } = given(
    ...hosts,
    requested({ target: 'rack2' }),
    admitted(),
    begin(),
    migrationBegun(),
    prepare(),
    refused,
    cancelled({ cause: { type: 'Refused', host: 'rack2', refusal: refused.data.refusal } }),
    sourceResumed(),
    targetCleared(),
  )
  next().is('Retried')
})

test('a silent host is asked again, and nothing is concluded from its silence', () => {
  const story = given(...hosts, requested(), admitted(), begin())
  story.later(4000).is()
  story.later(5001).is('Begin → rack1')
})

test('a phase that takes too long is cancelled by a verdict, which the log may refuse', () => {
  given(...hosts, requested(), admitted(), begin())
    .later(31_000)
    .is('Cancelled')
})

test('when its limits are changed while it is copied, the source is told at once, and each attempt behind it', () => {
  const limits = { bandwidthBytesPerSecond: 2 ** 20, downtimeMs: 5000 }
  const asked = [...performing, perform(), finish()]
  given(...asked)
    .next()
    .is()
  const story = given(...asked, limitsSet({ limits }))
  story.next().is('Perform → rack1')
  const [command] = story.next().step.command
  assert.ok(command?.type === 'Perform')
  assert.equal(command.data.policy, { ...defaultPolicy, ...limits })
  given(...asked, limitsSet({ limits }), perform())
    .next()
    .is()
})

test('a guest is not paused for longer than its policy allows and some seconds', () => {
  const allowed = [...upToPerforming({ policy: { downtimeMs: 2000 } }), paused]
  given(...allowed)
    .later(4900)
    .is('Perform → rack1', 'Finish → rack2')
  given(...allowed)
    .later(5001)
    .is('Cancelled')
})

test('the whole migration has a limit of its own', () => {
  const asked = requested({ policy: { timeoutMs: 5000 } })
  given(...hosts, asked, admitted(), begin(), migrationBegun(), prepare(), targetPrepared())
    .later(2000)
    .is('Cancelled')
  given(...hosts, asked)
    .later(6000)
    .is('Abandoned')
})

test('cancel in each phase before the verdict writes the verdict, or abandons what had not begun', () => {
  given(...hosts, requested(), cancelAsked())
    .next()
    .is('Abandoned')
  given(...hosts, requested(), admitted(), cancelAsked())
    .next()
    .is('Cancelled')
  given(...hosts, requested(), admitted(), begin(), migrationBegun(), cancelAsked())
    .next()
    .is('Cancelled')
  given(...performing, cancelAsked())
    .next()
    .is('Cancelled')
  given(...switching, cancelAsked())
    .next()
    .is('Cancelled')
})

test('cancel behind the verdict changes nothing', () => {
  given(...switching, committed(), cancelAsked())
    .next()
    .is('Finish → rack2')
})

test('a cancelled attempt is cleared on both hosts before anything else', () => {
  given(...performing, cancelled())
    .next()
    .is('Cancel → rack1', 'Cancel → rack2')
  given(...performing, cancelled(), sourceResumed(), targetCleared())
    .next()
    .is('Abandoned')
})

test('a target that was never asked to prepare has nothing to clear', () => {
  given(...hosts, requested(), admitted(), begin(), cancelled())
    .next()
    .is('Cancel → rack1')
})

test('a failure is cancelled, cleared, and tried again', () => {
  const failed = [...performing, performFailed()]
  given(...failed)
    .next()
    .is('Cancelled')
  const cause = { type: 'Failed', host: 'rack1', failure: { type: 'AgentRestarted' } } as const
  const cleared = [...failed, cancelled({ cause }), sourceResumed(), targetCleared()]
  given(...cleared)
    .next()
    .is('Retried')
  const again = given(...cleared, retried())
  again.next().is('Admitted')
  assert.is(again.migration().attempt.number, 2)
})

test('the failure that came first is the cause', () => {
  const { step } = given(...performing, receiveFailed(), performFailed()).next()
  assert.equal(step.decide?.type === 'Cancelled' && step.decide.data.cause, {
    type: 'Failed',
    host: 'rack2',
    failure: { type: 'StreamCut', receivedBytes: 7 },
  })
})

const byHand = {
  type: 'HypervisorFailed',
  message: 'somebody else has paused it',
  otherHand: true,
} as const

test("what somebody else's hand ended is not tried again, and that is the cause, though it was said second", () => {
  const cause = { type: 'Failed', host: 'rack2', failure: receiveFailed().data.failure } as const
  const { step } = given(
    ...performing,
    receiveFailed(),
    cancelled({ cause }),
    performFailed({ failure: byHand }),
    sourceResumed(),
    targetCleared(),
  ).next()
  assert.equal(step.decide?.type === 'Abandoned' && step.decide.data.cause, {
    type: 'Failed',
    host: 'rack1',
    failure: byHand,
  })
})

test('a guest that the source has lost is not lost while it runs elsewhere', () => {
  const cause = { type: 'Failed', host: 'rack1', failure: byHand } as const
  const gone = [...performing, performFailed(), cancelled({ cause }), sourceLost(), targetCleared()]
  const isLost = (...more: ReturnType<typeof hostReported>[]) => {
    const { step } = given(...gone, ...more).next()
    return step.decide?.type === 'Abandoned' && step.decide.data.guestLost
  }
  assert.is(isLost(), true)
  assert.is(isLost(hostReported('rack3', [{ vm: 'web1', state: 'running' }])), false)
})

test('after the last attempt it is given up', () => {
  const once = requested({ policy: { attempts: 1 } })
  const cause = { type: 'Failed', host: 'rack1', failure: { type: 'AgentRestarted' } } as const
  given(
    ...hosts,
    once,
    [admitted(), begin(), migrationBegun(), prepare(), targetPrepared(), performFailed()],
    [cancelled({ cause }), sourceResumed(), targetCleared()],
  )
    .next()
    .is('Abandoned')
})

test('a target that refuses leaves the choice to others, when there are others and none was asked for', () => {
  const refusal = { type: 'DiskMissing', path: '/shared/web1.qcow2' } as const
  const refused = (...more: ReturnType<typeof hostReported>[]) => [
    ...hosts,
    ...more,
    requested(),
    [admitted(), begin(), migrationBegun(), prepare(), prepareRefused()],
    [
      cancelled({ cause: { type: 'Refused', host: 'rack2', refusal } }),
      sourceResumed(),
      targetCleared(),
    ],
  ]
  given(...refused())
    .next()
    .is('Abandoned')
  given(...refused(hostReported('rack3')))
    .next()
    .is('Retried')
  const again = given(...refused(hostReported('rack3')), retried()).next()
  assert.is(again.step.decide?.type === 'Admitted' && again.step.decide.data.target, 'rack3')
})

test('a source that never answers does not hold a guest that has moved', () => {
  const { step } = given(...switching, committed(), targetRunning(), confirm()).later(121_000)
  assert.equal(step.decide?.type === 'Completed' && step.decide.data.openDuties, [
    { host: 'rack1', command: 'Confirm' },
  ])
})

test('a target that never answers does not hold a guest that stays', () => {
  const asked = [cancel('source'), cancel('target')]
  const { step } = given(...performing, cancelled(), asked, sourceResumed()).later(121_000)
  assert.equal(step.decide?.type === 'Abandoned' && step.decide.data.openDuties, [
    { host: 'rack2', command: 'Cancel' },
  ])
})

test('what nobody was asked for is not left open, however late the coordinator comes', () => {
  given(...switching, committed(), targetRunning())
    .later(121_000)
    .is('Confirm → rack1')
  given(...performing, cancelled(), cancel('source'), sourceResumed())
    .later(121_000)
    .is('Cancel → rack2')
})

test('a committed guest of which nothing is heard is in doubt, and the question names the host', () => {
  given(...switching, committed())
    .later(29_000)
    .is('Finish → rack2')
  const { step } = given(...switching, committed()).later(31_000)
  assert.match(step.decide?.type === 'DoubtRaised' ? step.decide.data.question : '', /rack2/)
})

test('a target that still fetches is not in doubt before the migration has had its time, and one whose rest is broken at once', () => {
  const fetching = [...switching, committed(), targetFetching({ isBroken: false })]
  given(...fetching)
    .later(31_000)
    .is('Finish → rack2')
  const { step } = given(...switching, committed(), targetFetching({ isBroken: true })).next()
  assert.match(
    step.decide?.type === 'DoubtRaised' ? step.decide.data.question : '',
    /does not come any more.*--fenced rack2/,
  )
})

test('a target that knows that it never ran fences itself, and the source goes on', () => {
  const fencing = [...switching, committed(), targetNeverRan()]
  given(...fencing)
    .next()
    .is('Fenced')
  const { step } = given(...fencing, fenced()).next()
  const toSource = step.command.find(({ data }) => data.host === 'rack1')
  assert.is(toSource?.type === 'Cancel' && toSource.data.fence, fencing.length + 1)
})

test('a copy that went on after all was well says nothing more', () => {
  given(
    ...switching,
    committed(),
    performed(),
    targetRunning(),
    sourceReleased(),
    completed(),
    performed(),
  )
    .next()
    .is()
  given(...performing, cancelled(), sourceResumed(), targetCleared(), abandoned())
    .next()
    .is()
})

test.run()

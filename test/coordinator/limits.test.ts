import { judgeLimit } from '@ferry/coordinator/decide/request'
import type { Limits } from '@ferry/schemas/policy'
import { defaultPolicy } from '@ferry/schemas/policy'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  RIGHT,
  abandoned,
  cancelAsked,
  committed,
  hostReported,
  limitsSet,
  requested,
  sourcePaused,
  upToPerforming,
} from '../events/examples.ts'
import { given, migrationIn, worldAfter } from '../story.ts'
import type { Telling } from '../story.ts'

/** Limits of a migration that is on its way. */
const test = suite('limits that are changed')

const judging = { decisionsVersion: 2 }
const hosts = [
  hostReported('rack1', [{ vm: 'web1', state: 'running' }], judging),
  hostReported('rack2', [], judging),
]
const performing = [...hosts, ...upToPerforming().filter(({ type }) => type !== 'HostReported')]

const limit = (telling: readonly Telling[], limits: Limits) => {
  const told = given(...telling)
  return judgeLimit(told.fleet, { migration: 'm1', by: 'ops', ...limits }, worldAfter(told, 0))
}
const outcomeOf = (judgement: ReturnType<typeof limit>) =>
  'refusal' in judgement ? judgement.refusal.type : Object.keys(judgement).join()

test('are a decision about the guest, with what was changed and by whom', () => {
  const judgement = limit(performing, { downtimeMs: 2000 })
  assert.ok('decision' in judgement)
  assert.equal(judgement.decision.data, {
    after: given(...performing).fleet.guests.get('web1')?.head,
    downtimeMs: 2000,
    by: 'ops',
  })
})

test('hold for what they name; what is not named stays, and none takes a bandwidth away', () => {
  const [bandwidth, downtime] = [{ bandwidthBytesPerSecond: 2 ** 20 }, { downtimeMs: 2000 }]
  const policyAfter = (...all: Limits[]) =>
    migrationIn(given(...performing, ...all.map((limits) => limitsSet({ limits })))).policy
  assert.equal(policyAfter(bandwidth), { ...defaultPolicy, ...bandwidth })
  assert.equal(policyAfter(bandwidth, downtime), { ...defaultPolicy, ...bandwidth, ...downtime })
  assert.equal(policyAfter(bandwidth, downtime, { bandwidthBytesPerSecond: null }), {
    ...defaultPolicy,
    ...downtime,
  })
})

test('that it keeps to already are recorded once', () => {
  const limits = { downtimeMs: 2000 }
  const told = [...performing, limitsSet({ limits })]
  assert.equal(limit(told, limits), { recorded: told.length })
  assert.is(outcomeOf(limit(told, { downtimeMs: 2001 })), 'decision')
})

test('come before the guest is moved for good, or not at all', () => {
  assert.is(outcomeOf(limit([...hosts, requested()], { downtimeMs: 1 })), 'decision')
  const switching = [...performing, sourcePaused({ admission: RIGHT })]
  assert.is(outcomeOf(limit(switching, { downtimeMs: 1 })), 'decision')
  assert.is(outcomeOf(limit([...switching, committed()], { downtimeMs: 1 })), 'TooLateToLimit')
  const ended = [...hosts, requested(), cancelAsked(), abandoned()]
  assert.is(outcomeOf(limit(ended, { downtimeMs: 1 })), 'AlreadyEnded')
  assert.is(outcomeOf(limit(hosts, { downtimeMs: 1 })), 'UnknownMigration')
})

test('are not recorded where a host of an older release could not judge them', () => {
  const judgement = limit([...performing, hostReported('rack3')], { downtimeMs: 2000 })
  assert.ok('refusal' in judgement)
  assert.equal(judgement.refusal, { type: 'HostOlder', host: 'rack3', agentVersion: '0.1.0' })
})

test('are not held back by an older host that is long gone, unless the guest moves there', () => {
  const olderAndSilent = (host: string, ...telling: readonly Telling[]) => {
    const told = given(...telling, hostReported(host, []))
    const alive = new Set([...told.fleet.hosts.keys()].filter((each) => each !== host))
    const request = { migration: 'm1', by: 'ops', downtimeMs: 2000 }
    return outcomeOf(judgeLimit(told.fleet, request, worldAfter(told, 0, {}, { alive })))
  }
  assert.is(olderAndSilent('rack3', ...performing), 'decision')
  assert.is(olderAndSilent('rack2', ...performing), 'HostOlder')
  assert.is(olderAndSilent('rack2', ...hosts, requested({ target: 'rack2' })), 'HostOlder')
})

test.run()

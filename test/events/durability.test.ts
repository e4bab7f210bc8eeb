import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  NotDurable,
  canSync,
  demand,
  durabilities,
  findings,
  guardsInCluster,
  usualReplicas,
} from '@ferry/events/durability'
import type { LogFacts } from '@ferry/events/durability'

const test = suite('what a log survives')

const alone: LogFacts = {
  version: '2.10.27',
  url: '127.0.0.1:4222',
  replicas: 1,
  current: 1,
  storage: 'file',
  isSaidToSync: false,
  duplicateWindowMs: 3_600_000,
  keepsAll: true,
}
const synced = { ...alone, isSaidToSync: true }
const replicated = { ...alone, cluster: 'ferry', replicas: 3, current: 3 }

const refusal = (...[asked, facts]: Parameters<typeof demand>): string | undefined => {
  try {
    demand(asked, facts)
    return undefined
  } catch (error) {
    if (error instanceof NotDurable) return error.message
    throw error
  }
}

const accepted = (facts: LogFacts) =>
  durabilities.filter((asked) => refusal(asked, facts) === undefined).join(' ')

test('each level runs on what it asks for, and on nothing less', () => {
  assert.is(accepted(alone), 'any')
  assert.is(accepted(synced), 'any synced')
  assert.is(accepted(replicated), 'any replicated')
  assert.is(accepted({ ...replicated, isSaidToSync: true }), 'any synced replicated')
  assert.is(accepted({ ...replicated, replicas: 2 }), 'any')
  assert.is(accepted({ ...replicated, isSaidToSync: true, storage: 'memory' }), 'any')
})

test('a server that cannot sync each message is not believed to', () => {
  assert.is(accepted({ ...synced, version: '2.9.10' }), 'any')
  assert.match(refusal('synced', { ...synced, version: '2.9.10' }) ?? '', 'cannot do otherwise')
})

test('a replica that is away for a while keeps nobody from running', () => {
  assert.is(accepted({ ...replicated, current: 2 }), 'any replicated')
})

test('a refusal says what was found, and what to change', () => {
  assert.is(
    refusal('replicated', alone),
    'a log that is replicated was asked for, and it stands on one server. Run three nats-servers as a cluster.',
  )
  assert.match(
    refusal('replicated', { ...replicated, replicas: 1 }) ?? '',
    'nats stream edit FERRY --replicas 3',
  )
  assert.match(refusal('synced', alone) ?? '', '--synced')
})

const told = (facts: LogFacts) => findings(facts).map(({ what, is }) => `${what}: ${is}`)

test('what is good, doubtful and bad about a log is told', () => {
  const fine = ['nats-server: good', 'replicas: good', 'a power cut: good', 'history: good']
  const but = (...others: string[]) =>
    fine.map((each) => others.find((other) => other.split(':')[0] === each.split(':')[0]) ?? each)
  assert.equal(told(replicated), fine)
  assert.equal(told(synced), but('replicas: doubtful'))
  assert.equal(told(alone), but('replicas: doubtful', 'a power cut: doubtful'))
  assert.equal(told({ ...replicated, version: '2.9.20' }), but('nats-server: doubtful'))
  assert.equal(told({ ...replicated, current: 2 }), but('replicas: doubtful'))
  assert.equal(told({ ...replicated, storage: 'memory' }), but('a power cut: bad'))
  assert.equal(told({ ...replicated, keepsAll: false }), but('history: bad'))
  assert.equal(told({ ...replicated, duplicateWindowMs: 1000 }), but('history: doubtful'))
  assert.equal(told({ ...synced, version: '2.8.4' })[0], 'nats-server: doubtful')
})

test('whatever is not good says what to do', () => {
  for (const { is, todo } of findings({ ...alone, version: '2.8.4', keepsAll: false }))
    assert.is(is === 'good', todo === undefined)
})

test('versions are compared as numbers', () => {
  assert.equal(['2.9.9', '2.9.21', '2.10.0', '3.0.0'].map(guardsInCluster), [
    false,
    true,
    true,
    true,
  ])
  assert.equal(['2.9.25', '2.10.0-RC.1', '2.11.3'].map(canSync), [false, true, true])
})

test('a new log stands on three servers of a cluster', () => {
  assert.is(usualReplicas(undefined), 1)
  assert.is(usualReplicas('ferry'), 3)
})

test.run()

import { judgeRecover } from '@ferry/coordinator/decide/recover'
import { judgeCancel, judgeLimit, judgeStart } from '@ferry/coordinator/decide/request'
import type { EventOf } from '@ferry/schemas/event'
import type { RecoverRequest } from '@ferry/schemas/request'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  abandoned,
  cancelAsked,
  hostReported,
  limitsSet,
  logBehind,
  logRecovered,
  needs,
  requested,
} from '../events/examples.ts'
import { given, worldAfter } from '../story.ts'
import type { Told } from '../story.ts'

/** The first answer may be lost: whoever asks again hears it, also when all is over by then. */
const test = suite('a request that is asked twice')

const answerTo = (judgement: { refusal: { type: string } } | { recorded: number } | object) =>
  'refusal' in judgement ? judgement.refusal.type : judgement

test('to cancel: it was asked for, whatever came of it', () => {
  const cancel = (told: Told, by: string) =>
    answerTo(judgeCancel(told.fleet, { migration: 'm1', by }, worldAfter(told, 0)))
  const source = hostReported('rack1', [{ vm: 'web1', state: 'running' }])
  const ended = given(source, requested(), cancelAsked(), abandoned())
  assert.equal(cancel(ended, 'test'), { recorded: 3 })
  assert.is(cancel(ended, 'somebody else'), 'AlreadyEnded')
})

test('to change limits: they stand there, also when it has ended', () => {
  const source = hostReported('rack1', [{ vm: 'web1', state: 'running' }])
  const limits = { downtimeMs: 2000 }
  const ended = given(source, requested(), limitsSet({ limits }), cancelAsked(), abandoned())
  const limit = (downtimeMs: number) => {
    const request = { migration: 'm1', by: 'test', downtimeMs }
    return answerTo(judgeLimit(ended.fleet, request, worldAfter(ended, 0)))
  }
  assert.equal(limit(2000), { recorded: 3 })
  assert.is(limit(2001), 'AlreadyEnded')
})

const ordered: EventOf<'StartOrdered'> = {
  type: 'StartOrdered',
  id: 's1.StartOrdered@0',
  writer: { coordinator: 'c1' },
  time: '2026-11-23T10:00:00.000Z',
  vm: 'web1',
  data: { after: 0, host: 'rack1', start: 's1', by: 'test' },
}
const answer = { writer: { host: 'rack1' }, time: ordered.time, vm: 'web1' }
const answers: readonly EventOf<'GuestStarted' | 'StartRefused'>[] = [
  { ...answer, type: 'GuestStarted', id: 's1.GuestStarted', data: { start: 's1', needs } },
  {
    ...answer,
    type: 'StartRefused',
    id: 's1.StartRefused',
    data: { start: 's1', refusal: { type: 'UnknownDefinition', vm: 'web1' } },
  },
]
for (const said of answers)
  test(`to start a guest: it is not ordered once more behind ${said.type}`, () => {
    const told = given(hostReported('rack1'), ordered, said)
    const start = (request: string) => {
      const wish = { request, vm: 'web1', host: 'rack1', by: 'test' }
      return answerTo(judgeStart(told.fleet, wish, worldAfter(told, 0)))
    }
    assert.equal(start('s1'), { recorded: 2 })
    assert.not.equal(start('s2'), { recorded: 2 })
  })

test('to recover: that is what was recorded, and nothing else is', () => {
  const web1 = { vm: 'web1', host: 'rack1' }
  const told = given(
    logBehind(),
    logRecovered({ without: ['rack2'], guests: [{ ...web1, isRunning: true }] }),
  )
  const recover = (more: Partial<RecoverRequest> = {}) => {
    const request = { by: 'test', without: ['rack2'], guests: [web1], ...more }
    return answerTo(judgeRecover(told.fleet, request, worldAfter(told, 0)))
  }
  assert.equal(recover(), { recorded: 2 })
  // The inventories may have said so as well.
  assert.equal(recover({ guests: [] }), { recorded: 2 })
  assert.is(recover({ by: 'somebody else' }), 'LogWhole')
  assert.is(recover({ without: [] }), 'LogWhole')
  assert.is(recover({ guests: [{ vm: 'web1' }] }), 'LogWhole')
  assert.is(recover({ guests: [{ vm: 'web2', host: 'rack1' }] }), 'LogWhole')
  assert.is(recover({ evidence: 'looked at' }), 'LogWhole')
})

test.run()

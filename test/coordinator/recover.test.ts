import { judgeRecover } from '@ferry/coordinator/decide/recover'
import type { World } from '@ferry/coordinator/decide/world'
import { isStopped } from '@ferry/events/alarms'
import { systemClock } from '@ferry/events/clock'
import { foldHistory } from '@ferry/events/history'
import { memoryLog } from '@ferry/events/log/in-memory'
import type { RecoverRequest } from '@ferry/schemas/request'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import {
  abandoned,
  committed,
  fenced,
  hostReported,
  logBehind,
  logRecovered,
  performed,
  sourceResumed,
  upToPerforming,
} from '../events/examples.ts'
import { tell, worldAfter } from '../story.ts'
import type { Told } from '../story.ts'

/** Taken after all that the host has said. */
const late = { asOf: 1000, stopped: 1000 }
const rack1 = (state: 'running' | 'sent') => hostReported('rack1', [{ vm: 'web1', state }], late)
const rack2 = (state: 'running' | 'loaded') => hostReported('rack2', [{ vm: 'web1', state }], late)
const switching = [...upToPerforming(), performed()]
const alarmed = [...switching, logBehind()]

const judged = (told: Told, more: Partial<RecoverRequest> = {}) => {
  const request = { by: 'test', without: [], guests: [], ...more }
  const judgement = judgeRecover(told.fleet, request, worldAfter(told, 0))
  if ('refusal' in judgement) return judgement.refusal.type
  return 'decision' in judgement ? judgement.decision.data.guests : []
}
test('an alarm stands until a recovery names it, and a late one of the life before is void', () => {
  const once = tell(logBehind())
  assert.ok(isStopped(once.fleet.alarms))
  assert.ok(isStopped(tell(logBehind(), logRecovered({ answers: [9] })).fleet.alarms))
  const { fleet, rulings } = tell(logBehind(), logRecovered({}), logBehind(0))
  assert.not.ok(isStopped(fleet.alarms))
  assert.is(fleet.alarms.life, 1)
  assert.ok('why' in (rulings[2] ?? {}))
})

test('of two recoveries the first one counts', () => {
  const { fleet, rulings } = tell(logBehind(), logRecovered({}), logRecovered({}, 'second'))
  assert.is(fleet.alarms.recovery?.id, 'recovered')
  assert.ok('why' in (rulings[2] ?? {}))
})

test('a life that only an alarm remembers is not begun a second time', () => {
  assert.is(tell(logBehind(3), logRecovered({})).fleet.alarms.life, 4)
})

test('where the inventories leave one answer, it is taken', () => {
  assert.equal(judged(tell(...alarmed, rack1('sent'), rack2('running'))), [
    { vm: 'web1', host: 'rack2', isRunning: true },
  ])
  assert.equal(judged(tell(...alarmed, rack1('sent'), rack2('loaded'))), [
    { vm: 'web1', host: 'rack1', isRunning: false },
  ])
})

test('what is not clear has to be said, and nobody may say what cannot be', () => {
  const gone = tell(...alarmed, rack1('sent'), hostReported('rack2', [], late))
  assert.is(judged(gone), 'GuestUnclear')
  assert.equal(judged(gone, { guests: [{ vm: 'web1', host: 'rack1' }] }), [
    { vm: 'web1', host: 'rack1', isRunning: false },
  ])
  assert.is(judged(gone, { guests: [{ vm: 'web1', host: 'rack2' }] }), 'NoWholeCopy')
  const runs = tell(...alarmed, rack1('sent'), rack2('running'))
  assert.is(judged(runs, { guests: [{ vm: 'web1', host: 'rack1' }] }), 'NoWholeCopy')
  const twice = tell(...alarmed, rack1('running'), rack2('running'))
  assert.is(judged(twice), 'GuestOnSeveralHosts')
})

test('a fence that was settled in what the log lost does not speak against the copy that came behind it', async () => {
  const outcome = [committed(), fenced(), sourceResumed(), abandoned()]
  const there = [hostReported('rack1', [], late), rack2('running')]
  const lost = [...switching, ...outcome, logBehind(), ...there]
  const told = tell(...lost)
  assert.ok(told.fleet.guests.get('web1')?.stale.rack2)
  const guests = [{ vm: 'web1', host: 'rack2', isRunning: true }]
  assert.equal(judged(told), guests)
  const { fleet, entries } = tell(...lost, logRecovered({ guests }))
  assert.equal(fleet.guests.get('web1')?.stale, {})
  // Its host hears of it in the guest's own history.
  const log = memoryLog(systemClock)
  for (const { message } of entries) if (message.is === 'event') await log.append(message.event)
  assert.equal((await foldHistory(log, 'web1')).guests.get('web1')?.stale, {})
})

test('hosts that said nothing since the alarm are waited for, and a whole log is left alone', () => {
  assert.is(judged(tell(...alarmed, rack2('running'))), 'HostsSilent')
  const goesOn = hostReported('rack1', [{ vm: 'web1', state: 'sent' }], { asOf: 1000 })
  assert.is(judged(tell(...alarmed, goesOn, rack2('running'))), 'HostsSilent')
  assert.is(judged(tell(...switching)), 'LogWhole')
})

test('nor is a host forgotten that what is left of the log does not know', () => {
  const byCoordinator = { ...logBehind(), writer: { coordinator: 'c1' } }
  const told = tell(byCoordinator, hostReported('rack1', [], late))
  const request = { by: 'test', without: [], guests: [] }
  const world = { ...worldAfter(told, 0), known: new Set(['rack1', 'rack2']) }
  const judge = (more: Partial<RecoverRequest> = {}, now: Partial<World> = {}) =>
    judgeRecover(told.fleet, { ...request, ...more }, { ...world, ...now })
  assert.equal(judge(), { refusal: { type: 'HostsSilent', hosts: ['rack2'] } })
  assert.ok('decision' in judge({ without: ['rack2'] }))

  // One that nobody remembers has had the time to be heard, and who is heard is not off.
  assert.equal(judge({}, { listenedMs: 9000 }), { refusal: { type: 'NotListenedYet' } })
  const alive = new Set(['rack1', 'rack2'])
  const spoken = judge({ without: ['rack2'] }, { alive })
  assert.equal(spoken, { refusal: { type: 'HostsAlive', hosts: ['rack2'] } })

  const byHost = tell(logBehind(), hostReported('rack1', [], late))
  assert.is(judged(byHost), 'HostsSilent')
  assert.ok(Array.isArray(judged(byHost, { without: ['rack2'] })))
})

test.run()

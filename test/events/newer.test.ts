import { systemClock } from '@ferry/events/clock'
import { foldHistory } from '@ferry/events/history'
import { contest } from '@ferry/events/log'
import { memoryLog } from '@ferry/events/log/in-memory'
import { decisions, facts, verdicts } from '@ferry/events/subjects'
import { verdictOn } from '@ferry/events/verdict'
import { encode } from '@ferry/schemas/cloud-event'
import type { Event } from '@ferry/schemas/event'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { cancelled, committed, fenced, hostReported, requested, sourcePaused } from './examples.ts'

/** What a newer release has written, in the eyes of this one. */
const test = suite("a newer release's word")

const fromTheFuture = (event: Event) => encode(event).replace(/\.v1"/, '.v2"')
const isNewer = (error: unknown) => error instanceof Error && error.name === 'NewerLog'
const rejects = (work: Promise<unknown>, what: string) =>
  work.then(
    () => assert.unreachable(what),
    (error: unknown) => assert.ok(isNewer(error), String(error)),
  )

const subject = verdicts('rack2', 'm1', 1)
const contested = { target: 'rack2', migration: 'm1', attempt: 1 }

test('on the verdict lets nobody give another one, or act as if there were none (I3)', async () => {
  const log = memoryLog(systemClock)
  log.inject(subject, fromTheFuture(cancelled()))
  await rejects(verdictOn(log, contested), 'a verdict was read')
  await rejects(contest(log, committed()), 'a contest was won')
})

test('behind the verdict changes nothing', async () => {
  const log = memoryLog(systemClock)
  assert.ok((await contest(log, committed({ id: 'first' }))).won)
  log.inject(subject, fromTheFuture(cancelled()))
  assert.is((await verdictOn(log, contested))?.id, 'first')
  assert.ok(!(await contest(log, cancelled())).won)
})

test('on what was decided about a guest stops whoever must know; that of hosts does not', async () => {
  const log = memoryLog(systemClock)
  await log.append(hostReported('rack1', [{ vm: 'web1', state: 'running' }]))
  await log.append(requested({ after: 0 }))
  log.inject(facts('rack1', 'web1', 'SourcePaused'), fromTheFuture(sourcePaused()))
  assert.is((await foldHistory(log, 'web1')).guests.get('web1')?.migration?.id, 'm1')
  log.inject(decisions('web1'), fromTheFuture(fenced({ after: 2 })))
  await rejects(foldHistory(log, 'web1'), 'it was folded')
})

test.run()

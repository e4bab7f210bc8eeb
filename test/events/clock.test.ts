import { mock } from 'node:test'
import { systemClock } from '@ferry/events/clock'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

const test = suite("this machine's clock")

const LONGEST_MS = 2 ** 31 - 1
const DAY_MS = 24 * 60 * 60_000

test.before.each(() => mock.timers.enable({ apis: ['setTimeout'] }))
test.after.each(() => mock.timers.reset())

test('waits longer than a timer of Node can', () => {
  const ended: string[] = []
  systemClock.after(2 * LONGEST_MS + 10, () => ended.push('the wait'))
  for (const ms of [1, LONGEST_MS - 1, LONGEST_MS, 9]) {
    mock.timers.tick(ms)
    assert.equal(ended, [], `${ms} ms later`)
  }
  mock.timers.tick(1)
  assert.equal(ended, ['the wait'])
})

test('such a wait can be prevented at any time', () => {
  const prevent = systemClock.after(60 * DAY_MS, () => assert.unreachable('it was prevented'))
  mock.timers.tick(30 * DAY_MS)
  prevent()
  mock.timers.tick(60 * DAY_MS)
})

test('a wait without an end has none', () => {
  systemClock.after(Number.POSITIVE_INFINITY, () => assert.unreachable('it has ended'))
  mock.timers.tick(60 * DAY_MS)
})

test.run()

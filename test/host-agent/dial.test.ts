import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { systemClock } from '@ferry/events/clock'
import { defaultPolicy } from '@ferry/schemas/policy'
import { dialUnder } from '@ferry/host-agent/dial'
import { makePace } from '@ferry/host-agent/transfer/pace'
import { testDial } from '../dial.ts'
import { silent } from '../fleet-in-process.ts'

const test = suite('a dial under the limit of a host')

const POLICY = { ...defaultPolicy, bandwidthBytesPerSecond: 4_000_000 }

function opened(hostLimit?: number) {
  const pace = makePace(systemClock, hostLimit)
  const above = testDial(POLICY)
  const { dial, close } = dialUnder(pace, above, 'web1', silent)
  const taken: (number | undefined)[] = []
  const begun = dial.policy()
  dial.onTurn(begun, async (next) => void taken.push(next.bandwidthBytesPerSecond))
  return { pace, above, close, taken, begun }
}

test('is the lower of both, whichever changes', () => {
  const { pace, above, taken, begun } = opened(3_000_000)
  assert.is(begun.bandwidthBytesPerSecond, 3_000_000)
  pace.limit(5_000_000)
  above.turn({ ...POLICY, bandwidthBytesPerSecond: 1_000_000 })
  above.turn(defaultPolicy)
  pace.limit(undefined)
  assert.equal(taken, [4_000_000, 1_000_000, 5_000_000, undefined])
})

test('is no other one where the host has no limit, and hears nothing more when it is over', () => {
  const { pace, above, close, taken, begun } = opened()
  assert.equal(begun, POLICY)
  close()
  pace.limit(1_000_000)
  above.turn(defaultPolicy)
  assert.equal(taken, [])
})

test.run()

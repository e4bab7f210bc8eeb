import { decode, encode } from '@ferry/schemas/cloud-event'
import type { Event } from '@ferry/schemas/event'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cancelled, hostReported, prepareRefused, receiveFailed } from '../events/examples.ts'

/** What a message of a newer release gives as its reason, read by this one. */
function readWith(event: Event, field: string, reason: object): unknown {
  const wire = JSON.parse(encode(event)) as { data: Record<string, unknown> }
  wire.data[field] = reason
  const decoded = decode(JSON.stringify(wire))
  if (decoded.is !== 'event') throw new Error(JSON.stringify(decoded))
  return Reflect.get(decoded.event.data, field)
}

test('a reason of a newer release makes no message void, and keeps its name', () => {
  const burning = { type: 'DiskBurns', path: '/shared/web1.img' }
  const unknown = { type: 'UnknownReason', reason: 'DiskBurns' }
  assert.equal(readWith(prepareRefused(), 'refusal', burning), unknown)
  assert.equal(readWith(receiveFailed(), 'failure', burning), unknown)
  assert.equal(readWith(cancelled(), 'cause', burning), unknown)
})

test('nor does one inside a cause: a verdict is one for everybody (I3)', () => {
  const cause = { type: 'Refused', host: 'rack2', refusal: { type: 'DiskBurns' } }
  const refusal = { type: 'UnknownReason', reason: 'DiskBurns' }
  assert.equal(readWith(cancelled(), 'cause', cause), { ...cause, refusal })
})

test('nor does one of a list: a host is known by the report of its guests', () => {
  const report = hostReported('rack1', [
    { vm: 'web1', state: 'running' },
    { vm: 'web2', state: 'running' },
  ])
  const guests = report.data.guests.map((guest, nth) =>
    nth === 0 ? guest : { ...guest, unmovable: { type: 'DiskBurns' } },
  )
  const unmovable = { type: 'UnknownReason', reason: 'DiskBurns' }
  assert.equal(readWith(report, 'guests', guests), [guests[0], { ...guests[1], unmovable }])
})

test('one that says more than this release can read is one of them; what names nothing is none', () => {
  const other = { type: 'GuestNotRunning', vm: 'web1', state: 'asleep' }
  const unknown = { type: 'UnknownReason', reason: 'GuestNotRunning' }
  assert.equal(readWith(prepareRefused(), 'refusal', other), unknown)
  assert.throws(() => readWith(prepareRefused(), 'refusal', { path: '/' }), /void/)
})

test.run()

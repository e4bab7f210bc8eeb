import { decode, encode } from '@ferry/schemas/cloud-event'
import type { Event } from '@ferry/schemas/event'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cancelled, committed, requested, sourcePaused } from '../events/examples.ts'

const examples: Event[] = [requested(), sourcePaused(), committed(), cancelled()]

test('an event survives the wire', () => {
  for (const event of examples) assert.equal(decode(encode(event)), { is: 'event', event })
})

test('names with any characters survive the wire', () => {
  const event = sourcePaused({ vm: 'größe.*>/ %25 😀', writer: { host: 'rack 1/ü.example' } })
  assert.equal(decode(encode(event)), { is: 'event', event })
})

test('on the wire it is a CloudEvent', () => {
  const wire = JSON.parse(encode(sourcePaused())) as Record<string, unknown>
  assert.is(wire.specversion, '1.0')
  assert.is(wire.type, 'dev.ferry.SourcePaused.v1')
  assert.is(wire.source, '/hosts/rack1')
  assert.is(wire.subject, 'web1')
  for (const name of Object.keys(wire)) assert.match(name, /^[a-z0-9]+$/)
})

test('what is not an event is void, and says why', () => {
  const cases: [string, RegExp][] = [
    ['', /not JSON/],
    ['[]', /must be object/],
    [encode(sourcePaused()).replace('"pausedAt":1000', '"pausedAt":"now"'), /pausedAt/],
    [encode(sourcePaused()).replace('"attempt":1', '"attempt":0'), /attempt/],
    [encode(sourcePaused()).replace('/hosts/rack1', '/hosts/%ff'), /source/],
    [encode(sourcePaused()).replace('/hosts/rack1', '/kings/rack1'), /source/],
    [encode(sourcePaused()).replace('"web1"', '"half a pair: \\ud800"'), /subject/],
  ]
  for (const [text, why] of cases) {
    const decoded = decode(text)
    assert.is(decoded.is, 'void', text)
    if (decoded.is === 'void') assert.match(decoded.why, why)
  }
})

test('a type or version of the future is unknown, which is not void', () => {
  const text = encode(sourcePaused({ id: 'one', admission: 7 }))
  const about = { id: 'one', vm: 'web1', migration: 'm1', attempt: 1, admission: 7 }
  for (const name of ['SourcePaused.v2', 'SourceDanced.v1'])
    assert.equal(decode(text.replace('SourcePaused.v1', name)), {
      is: 'unknown',
      type: `dev.ferry.${name}`,
      about,
    })
  const nothingMore = { type: 'dev.ferry.SourceDanced.v1', data: {} }
  assert.equal(decode(JSON.stringify({ ...JSON.parse(text), ...nothingMore })), {
    is: 'unknown',
    type: 'dev.ferry.SourceDanced.v1',
  })
})

test('a name that every object has is no message', () => {
  assert.is(
    decode(encode(sourcePaused()).replace('SourcePaused.v1', 'constructor.v1')).is,
    'unknown',
  )
})

test.run()

import { nameOf, subjectOf, token } from '@ferry/events/subjects'
import * as fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cancelled, committed, sourcePaused } from './examples.ts'

test('any name becomes one token that NATS takes, and comes back', () => {
  fc.assert(
    fc.property(fc.string({ minLength: 1, unit: 'grapheme' }), (name) => {
      assert.match(token(name), /^[A-Za-z0-9_=-]+$/)
      assert.is(nameOf(token(name)), name)
    }),
  )
})

test('different names are different tokens', () => {
  assert.is.not(token('a.b'), token('a=2Eb'))
})

test('a fact stands under its writer, so nobody speaks for another host', () => {
  assert.is(subjectOf(sourcePaused()), 'ferry.fact.rack1.web1.SourcePaused')
  assert.is(
    subjectOf(sourcePaused({ writer: { host: 'rack.2' } })),
    'ferry.fact.rack=2E2.web1.SourcePaused',
  )
})

test('only the target commits, and only a coordinator cancels', () => {
  assert.is(subjectOf(committed()), 'ferry.verdict.rack2.m1.1')
  assert.is(subjectOf(committed({ writer: { host: 'rack1' } })), undefined)
  assert.is(subjectOf(committed({ writer: { coordinator: 'c1' } })), undefined)
  assert.is(subjectOf(cancelled()), 'ferry.verdict.rack2.m1.1')
  assert.is(subjectOf(cancelled({ writer: { host: 'rack2' } })), undefined)
})

test.run()

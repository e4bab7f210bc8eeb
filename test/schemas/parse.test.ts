import { Invalid, parse } from '@ferry/schemas/parse'
import { MigrateRequest } from '@ferry/schemas/request'
import { HostFile } from '@ferry/host-agent/settings'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { TSchema } from 'typebox'

function complaint(shape: TSchema, value: unknown): string {
  try {
    parse(shape, value, 'the request')
  } catch (error) {
    assert.instance(error, Invalid)
    return (error as Invalid).message
  }
  throw new Error('it was taken')
}

const good = { request: 'm1', vm: 'web1', by: 'me' }

test('what fits is given back as it is', () => {
  assert.is(parse(MigrateRequest, good, 'the request'), good)
})

test('an error names the path and the value that stands there', () => {
  assert.match(
    complaint(MigrateRequest, { ...good, policy: { downtimeMs: 'long' } }),
    '/policy/downtimeMs in the request must be number; found "long"',
  )
})

test('a missing field is named', () => {
  assert.match(complaint(MigrateRequest, { request: 'm1', by: 'me' }), /vm/)
})

test('a misspelt option is named, not ignored', () => {
  assert.match(complaint(MigrateRequest, { ...good, polcy: {} }), /polcy/)
})

test('of several errors the deepest is told', () => {
  const host = {
    host: 'rack1',
    servers: ['nats://x'],
    stateDirectory: 's',
    definitions: 'd',
    driver: 'qemu',
    listen: { host: '0.0.0.0', port: 700000 },
  }
  assert.match(complaint(HostFile, host), /\/listen\/port/)
})

test('a long value is cut in the message', () => {
  const message = complaint(MigrateRequest, { ...good, vm: 'x'.repeat(5000) })
  assert.ok(message.length < 400, message)
})

test.run()

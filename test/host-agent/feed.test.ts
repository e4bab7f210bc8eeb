import { once } from 'node:events'
import { PassThrough, Writable } from 'node:stream'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { feed } from '@ferry/host-agent/drivers/feed'

const test = suite('what feeds a hypervisor')

/** A pipe to a hypervisor that has ended. */
const broken = () =>
  new Writable({ write: (_, __, done) => done(new Error('EPIPE')) }).on('error', () => {})

test('hands on every byte in order, many pieces at once as well', async () => {
  const pipe = new PassThrough()
  const front = feed(pipe, { atEnd: () => void pipe.end() })
  front.cork()
  for (const piece of ['a', 'bc', 'd']) front.write(piece)
  front.uncork()
  front.end('e')
  const pieces = await pipe.toArray()
  assert.is(Buffer.concat(pieces as Buffer[]).toString(), 'abcde')
})

test('keeps the pipe open behind the last byte, unless it is told to end it', async () => {
  const pipe = new PassThrough()
  const front = feed(pipe)
  front.end('all')
  await once(front, 'finish')
  assert.is(pipe.writableEnded, false)
})

test('does not say that the hypervisor stopped taking it before it is known why', async () => {
  let hear = () => {}
  const why = new Promise<void>((resolve) => {
    hear = resolve
  })
  const order: string[] = []
  const front = feed(broken(), { beforeFailing: () => why.then(() => void order.push('why')) })
  const failed = once(front, 'error').then(() => order.push('failed'))
  front.write('x')
  await new Promise((resolve) => setImmediate(resolve))
  assert.equal(order, [])
  assert.is(front.destroyed, false)
  hear()
  await failed
  assert.equal(order, ['why', 'failed'])
})

test('says it also when nobody learns why', async () => {
  const front = feed(broken(), { beforeFailing: () => Promise.reject(new Error('libvirtd ended')) })
  const failed = once(front, 'error')
  front.write('x')
  const [error] = (await failed) as [Error]
  assert.is(error.message, 'EPIPE')
})

test.run()

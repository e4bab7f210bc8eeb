import { systemClock } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { endsWithDescription, wayBack } from '@ferry/host-agent/drivers/libvirt/return-path'
import { FRAME_HEADER_BYTES } from '@ferry/host-agent/transfer/frames'
import type { Image } from '@ferry/host-agent/transfer/image'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../until.ts'

/** When libvirt's QEMU has sent all: the answer that lets it "complete" is given then, and not before. */
const test = suite('the way back to QEMU')

const KIB = 1024

/** As QEMU ends its stream: a byte 6, a length, and JSON of that length. */
function description(bytes: number): Buffer {
  const begins = '{"page_size": 4096, "about": "'
  const text = `${begins}${'x'.repeat(bytes - begins.length - 2)}"}`
  const head = Buffer.alloc(5, 6)
  head.writeUInt32BE(text.length, 1)
  return Buffer.concat([head, Buffer.from(text)])
}

/** An image that comes as it is told to, and what was said of it. */
function sending() {
  const pieces: Buffer[] = []
  let waiting: ((frame: Buffer) => void) | undefined
  const give = () => {
    const piece = waiting && pieces.shift()
    if (piece === undefined) return
    waiting?.(Buffer.concat([Buffer.alloc(FRAME_HEADER_BYTES), piece]))
    waiting = undefined
  }
  const image: Image = {
    next: () =>
      new Promise((resolve) => {
        waiting = resolve
        give()
      }),
    stop: () => {},
  }
  const said: string[] = []
  const timers = new Map<number, () => void>()
  let made = 0
  const clock: Clock = {
    ...systemClock,
    after: (_, act) => {
      const its = (made += 1)
      timers.set(its, act)
      return () => void timers.delete(its)
    },
  }
  const way = wayBack(image, clock, {
    allIsOut: () => void said.push('all is out'),
    stalled: () => void said.push('stalled'),
  })
  const read = (async () => {
    for (;;) await way.image.next()
  })()
  read.catch(() => {})
  return {
    said,
    paused: way.paused,
    send: (...more: Buffer[]) => {
      pieces.push(...more)
      give()
    },
    isRead: () => until('it to be read', () => pieces.length === 0 && waiting !== undefined),
    /** Nothing more comes. */
    timePasses: () => {
      for (const act of timers.values()) act()
    },
  }
}

const memory = (bytes: number) => Buffer.alloc(bytes, 0x7d)

for (const [name, pieces] of Object.entries({
  'in one piece': [memory(100), description(20 * KIB)],
  'cut in two': (() => {
    const whole = description(20 * KIB)
    return [memory(100), whole.subarray(0, 7000), whole.subarray(7000)]
  })(),
  'of a machine with very many devices': [memory(100), description(900 * KIB)],
  'behind more than what is kept': [
    ...Array.from({ length: 9 }, () => memory(512 * KIB)),
    description(20 * KIB),
  ],
  'over the seam of what is kept': [
    ...Array.from({ length: 8 }, () => memory(512 * KIB - 9)),
    description(300 * KIB),
  ],
}))
  test(`sees the end ${name}`, async () => {
    const { said, paused, send, isRead, timePasses } = sending()
    paused()
    send(...pieces)
    await isRead()
    timePasses()
    assert.equal(said, ['all is out'])
  })

test('answers nothing while the guest runs, and when it is paused with everything read', async () => {
  const { said, paused, send, isRead, timePasses } = sending()
  send(memory(100), description(20 * KIB))
  await isRead()
  timePasses()
  assert.equal(said, [])
  paused()
  timePasses()
  assert.equal(said, ['all is out'])
})

test('takes it for stalled when nothing comes behind something that is no end', async () => {
  const { said, paused, send, isRead, timePasses } = sending()
  paused()
  send(memory(100), description(20 * KIB), memory(1))
  await isRead()
  timePasses()
  assert.equal(said, ['stalled'])
})

test('takes nothing for the end that has another length, or no beginning, or something behind it', () => {
  const whole = description(1000)
  assert.ok(endsWithDescription(whole))
  assert.not.ok(endsWithDescription(whole.subarray(1)))
  assert.not.ok(endsWithDescription(whole.subarray(0, -1)))
  assert.not.ok(endsWithDescription(Buffer.concat([whole, Buffer.from('}')])))
  assert.not.ok(endsWithDescription(whole.subarray(6)))
  assert.not.ok(endsWithDescription(Buffer.alloc(0)))
})

test.run()

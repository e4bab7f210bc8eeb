import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { finished } from 'node:stream/promises'
import { promisify } from 'node:util'
import { systemClock } from '@ferry/events/clock'
import { apart, joined } from '@ferry/host-agent/drivers/libvirt/one-stream'
import { answerNbd } from '@ferry/host-agent/drivers/nbd/answer'
import type { Change } from '@ferry/host-agent/drivers/nbd/answer'
import { tellNbd } from '@ferry/host-agent/drivers/nbd/tell'
import { FRAME_HEADER_BYTES } from '@ferry/host-agent/transfer/frames'
import { imageFromPieces } from '@ferry/host-agent/transfer/image'
import { makePace } from '@ferry/host-agent/transfer/pace'
import * as fc from 'fast-check'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../until.ts'

/** How disks travel: QEMU's own tools speak to each end of it. */
const test = suite('disks in one stream')

const SIZE_BYTES = 4 * 2 ** 20
let folder = ''
test.before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ferry-'))
})
test.after(() => rm(folder, { recursive: true }))

/** QEMU's server for one image file, `disk`, until it is stopped. */
async function served(image: string): Promise<{ path: string; end: () => Promise<void> }> {
  const path = `${image}.sock`
  const words = [
    '--format',
    'raw',
    '--socket',
    path,
    '--export-name',
    'disk',
    '--persistent',
    image,
  ]
  const child = spawn('qemu-nbd', words, { stdio: 'ignore' })
  await until('qemu-nbd to listen', () =>
    promisify(execFile)('qemu-nbd', ['--list', '--socket', path]).then(
      () => true,
      () => false,
    ),
  )
  return {
    path,
    end: async () => {
      child.kill()
      await once(child, 'exit')
    },
  }
}

async function emptyImage(name: string): Promise<string> {
  const image = join(folder, name)
  await writeFile(image, '')
  await truncate(image, SIZE_BYTES)
  return image
}

async function listening(path: string, take: (change: Change) => Promise<void>): Promise<Server> {
  const server = createServer((socket) => {
    socket.on('error', () => {})
    const open = async (name: string) =>
      name === 'disk' ? { sizeBytes: SIZE_BYTES, take } : undefined
    answerNbd(socket, open).then(
      () => socket.end(),
      () => socket.destroy(),
    )
  })
  server.listen(path)
  await once(server, 'listening')
  return server
}

const qemuIo = (path: string, name: string, ...commands: string[]) =>
  promisify(execFile)(
    'qemu-io',
    ['-f', 'raw', '-d', 'unmap'].concat(
      commands.flatMap((command) => ['-c', command]),
      `nbd+unix:///${name}?socket=${path}`,
    ),
  )

test('QEMU writes to where nothing is read, and every change is heard in its order', async () => {
  const path = join(folder, 'answer.sock')
  const heard: string[] = []
  const server = await listening(path, async (change) => {
    const { does, offset } = change
    heard.push(
      'bytes' in change
        ? `${does} ${offset} ${change.bytes.length} of ${change.bytes[0]}`
        : `${does} ${offset} ${change.length}${change.keepsRoom ? ' keeping the room' : ''}`,
    )
  })
  try {
    const commands = [
      'write -P 7 512 1024',
      'write -z 4096 8192',
      'write -z -u 65536 4096',
      'flush',
    ]
    await qemuIo(path, 'disk', ...commands, 'discard 131072 65536', 'write -f -P 9 0 512')
    assert.equal(heard, [
      'write 512 1024 of 7',
      'zeroes 4096 8192 keeping the room',
      'zeroes 65536 4096',
      'trim 131072 65536',
      'write 0 512 of 9',
    ])
    const { stdout } = await qemuIo(path, 'disk', 'read 0 512').catch(
      (error: { stdout: string }) => error,
    )
    assert.match(stdout, 'read failed')
    const unknown = await qemuIo(path, 'other', 'write 0 512').catch(
      (error: { stderr: string }) => error,
    )
    assert.match(unknown.stderr, 'export')
  } finally {
    server.close()
  }
})

test('what a server of QEMU is told is on its disk once it has been flushed', async () => {
  const image = await emptyImage('told.img')
  const server = await served(image)
  try {
    const disk = await tellNbd(server.path, 'disk', SIZE_BYTES)
    await disk.begin('write', { offset: 1024, length: 1024 }, false)
    await disk.bytes(Buffer.alloc(512, 1))
    await disk.bytes(Buffer.alloc(512, 2))
    await disk.begin('zeroes', { offset: 1536, length: 256 }, true)
    await disk.begin('trim', { offset: 2 ** 20, length: 2 ** 20 }, false)
    await disk.flush()
    const bytes = await readFile(image)
    assert.equal([bytes[1023], bytes[1024], bytes[1536], bytes[1792], bytes[2048]], [0, 1, 0, 2, 0])
    disk.close()
  } finally {
    await server.end()
  }
})

test('another size there, a name that is not there, and a write beside the disk are errors', async () => {
  const server = await served(await emptyImage('wrong.img'))
  const saidBy = (doing: Promise<unknown>) =>
    doing.then(
      () => 'nothing',
      (error: Error) => error.message,
    )
  try {
    const larger = tellNbd(server.path, 'disk', SIZE_BYTES + 512)
    assert.is(
      await saidBy(larger),
      `the disk disk has ${SIZE_BYTES} bytes there, and ${SIZE_BYTES + 512} here`,
    )
    assert.match(await saidBy(tellNbd(server.path, 'other', SIZE_BYTES)), 'it has no disk other')
    const disk = await tellNbd(server.path, 'disk', SIZE_BYTES)
    await disk.begin('zeroes', { offset: SIZE_BYTES, length: 512 }, false)
    assert.match(await saidBy(disk.flush()), 'the disk disk cannot be written')
  } finally {
    await server.end()
  }
})

/** What happens on the source, in its order. */
const step = fc.oneof(
  fc.record({ memory: fc.uint8Array({ minLength: 1, maxLength: 2000 }) }),
  fc.record({ write: fc.uint8Array({ minLength: 1, maxLength: 3000 }), at: fc.nat(8192) }),
  fc.record({ zeroes: fc.integer({ min: 1, max: 3000 }), at: fc.nat(8192) }),
)

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

test('memory and disk come apart as they were joined, however the stream is cut', async () => {
  const image = await emptyImage('joined.img')
  const server = await served(image)
  const trip = async (steps: readonly Step[], cut: number) => {
    const expectedDisk = Buffer.alloc(SIZE_BYTES)
    const expectedMemory: Uint8Array[] = []
    const source = new PassThrough()
    const stream = joined(makePace(systemClock), systemClock)
    stream.memory(imageFromPieces(source))
    const memory = new PassThrough({ highWaterMark: 2 ** 24 })
    const front = apart(memory, (name, sizeBytes) => tellNbd(server.path, name, sizeBytes))
    const pumped = (async () => {
      for (;;) {
        const frame = await stream.image.next()
        if (frame === undefined) break
        for (let at = FRAME_HEADER_BYTES; at < frame.length; at += cut)
          front.write(Buffer.from(frame.subarray(at, at + cut)))
      }
      front.end()
      await finished(front)
    })()
    await stream.disk(0, 'disk', SIZE_BYTES)
    await stream.change(0, { does: 'zeroes', offset: 0, length: SIZE_BYTES, keepsRoom: false })
    for (const each of steps)
      if ('memory' in each) {
        source.write(each.memory)
        expectedMemory.push(each.memory)
      } else if ('write' in each) {
        await stream.change(0, { does: 'write', offset: each.at, bytes: Buffer.from(each.write) })
        expectedDisk.set(each.write, each.at)
      } else {
        const { at: offset, zeroes: length } = each
        await stream.change(0, { does: 'zeroes', offset, length, keepsRoom: false })
        expectedDisk.fill(0, offset, offset + length)
      }
    source.end()
    await pumped
    const came: unknown = memory.read() ?? Buffer.alloc(0)
    assert.equal(came, Buffer.concat(expectedMemory))
    assert.ok((await readFile(image)).equals(expectedDisk))
  }
  try {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 30 }), fc.integer({ min: 1, max: 700 }), trip),
      { numRuns: 60 },
    )
  } finally {
    await server.end()
  }
})

test('a stream that is stopped lets nobody wait', async () => {
  const stream = joined(makePace(systemClock), systemClock)
  const told = stream.disk(0, 'disk', SIZE_BYTES)
  const next = stream.image.next()
  await told
  await next
  const waits = stream.image.next()
  const written = stream.change(0, { does: 'write', offset: 0, bytes: Buffer.alloc(1) })
  await waits
  await written
  const late = stream.change(0, { does: 'write', offset: 0, bytes: Buffer.alloc(1) })
  stream.image.stop(new Error('over'))
  assert.is(await late.catch((error: Error) => error.message), 'over')
  assert.is(await stream.image.next().catch((error: Error) => error.message), 'over')
})

test('what is not made of records is an error', async () => {
  const refused = async (bytes: Buffer) => {
    const front = apart(new PassThrough(), () => Promise.reject(new Error('a disk')))
    front.end(bytes)
    return finished(front).then(
      () => 'nothing',
      (error: Error) => error.message,
    )
  }
  const record = (kind: number) => Buffer.from([kind, 3, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
  assert.is(await refused(record(9)), 'there is no kind of record 9')
  assert.is(await refused(record(2)), 'nobody has spoken of disk 3')
  assert.is(await refused(record(0)), 'it ended within a record')
  assert.is(await refused(record(0).subarray(0, 7)), 'it ended within a record')
})

test.run()

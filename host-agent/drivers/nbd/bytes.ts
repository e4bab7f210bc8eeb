import type { Socket } from 'node:net'
import type { Writable } from 'node:stream'

/** It closed in the middle of something. */
export class HungUp extends Error {
  override readonly name = 'HungUp'

  constructor(options?: ErrorOptions) {
    super('it hung up', options)
  }
}

/** Reads exactly so many bytes. One call at a time. @throws {HungUp} */
export function bytesFrom(socket: Socket): (length: number) => Promise<Buffer> {
  let wake = () => {}
  let why: Error | undefined
  let isOver = false
  const over = (error?: unknown) => {
    if (error instanceof Error) why ??= error
    isOver = true
    wake()
  }
  socket.on('readable', () => wake())
  socket.on('error', over).once('end', over).once('close', over)
  return async (length) => {
    if (length === 0) return Buffer.alloc(0)
    for (;;) {
      const bytes: unknown = socket.read(length)
      if (bytes instanceof Buffer && bytes.length === length) return bytes
      // At its end a stream gives what is left, however little.
      if (bytes !== null || isOver) throw new HungUp({ cause: why })
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }
}

/** Resolves when the bytes are out, and their memory may be used for something else. */
export const written = (stream: Writable, bytes: Buffer): Promise<void> =>
  new Promise((resolve, reject) => {
    stream.write(bytes, (error) => (error == null ? resolve() : reject(error)))
  })

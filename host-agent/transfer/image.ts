import { Socket } from 'node:net'
import { FRAME_HEADER_BYTES } from './frames.ts'

/**
 * An image as it leaves a hypervisor, piece by piece. Each piece comes in a buffer with room for a frame's head in
 * front of it, so that both go to the network in one write and nothing is copied on the way.
 */
export type Image = {
  /**
   * Waits for the next piece. One call at a time.
   *
   * @returns eight free bytes and then the piece; undefined at the end. The buffer is used again: it is good until the
   * call after the next one, which leaves time to write one piece while the next is read.
   */
  readonly next: () => Promise<Buffer | undefined>
  /** Makes the call that waits, and every later one, throw this. */
  readonly stop: (error: Error) => void
}

/** As much as one read may bring: more than a unix socket holds by default. */
const PIECE_BYTES = 256 * 1024

/**
 * Reads an accepted socket, on which nobody listens yet, into two buffers by turns. Node offers that (`onread`) only
 * for sockets that it makes itself, so the accepted one's handle gets a new socket around it. A Node that has no such
 * handle reads in the usual way: slower, with a buffer to collect for each read.
 */
export function imageFromSocket(accepted: Socket): Image {
  const handle: unknown = Reflect.get(accepted, '_handle')
  if (!isStreamHandle(handle)) return imageFromPieces(accepted)

  const buffers = twoBuffers()
  let filling = buffers()
  let waiting: Waiting | undefined
  let isEnded = false
  let stopped: Error | undefined
  const answer = (act: (waiting: Waiting) => void) => {
    const asked = waiting
    waiting = undefined
    if (asked !== undefined) act(asked)
  }
  const stop = (error: Error) => {
    stopped ??= error
    answer(({ reject }) => reject(error))
    socket.destroy()
  }

  const options: object = {
    handle,
    pauseOnCreate: true,
    onread: {
      // Node asks for the next buffer as soon as one was filled; it reads into it only when told to go on.
      buffer: () => {
        filling = buffers()
        return filling.subarray(FRAME_HEADER_BYTES)
      },
      callback: (bytes: number) => {
        const frame = filling.subarray(0, FRAME_HEADER_BYTES + bytes)
        answer(({ resolve }) => resolve(frame))
        return false
      },
    },
  }
  const socket = new Socket(options)
  const closed = () => stop(new Error('the hypervisor closed the image'))
  // They share the handle, and only the one that closes it hears that it is closed.
  accepted.once('close', closed)
  socket.once('end', () => {
    isEnded = true
    answer(({ resolve }) => resolve(undefined))
  })
  socket.once('error', stop)
  socket.once('close', closed)
  return {
    next: () =>
      new Promise((resolve, reject) => {
        if (isEnded) return resolve(undefined)
        if (stopped !== undefined) return reject(stopped)
        waiting = { resolve, reject }
        socket.resume()
      }),
    stop,
  }
}

type Waiting = {
  readonly resolve: (frame: Buffer | undefined) => void
  readonly reject: (error: Error) => void
}

/** The same from anything that gives pieces of any size: they are copied behind the head. */
export function imageFromPieces(pieces: AsyncIterable<Buffer>): Image {
  const buffers = twoBuffers()
  const source = pieces[Symbol.asyncIterator]()
  let rest: Buffer = Buffer.alloc(0)
  let stopped: Error | undefined
  let interrupt: (error: Error) => void = () => {}
  return {
    next: async () => {
      if (stopped !== undefined) throw stopped
      while (rest.length === 0) {
        const more = await new Promise<IteratorResult<Buffer>>((resolve, reject) => {
          interrupt = reject
          source.next().then(resolve, reject)
        })
        if (more.done === true) return undefined
        rest = more.value
      }
      const frame = buffers().subarray(0, FRAME_HEADER_BYTES + rest.length)
      const taken = rest.copy(frame, FRAME_HEADER_BYTES)
      rest = rest.subarray(taken)
      return frame
    },
    stop: (error) => {
      stopped ??= error
      interrupt(error)
    },
  }
}

function twoBuffers(): () => Buffer {
  const pair = [0, 1].map(() => Buffer.allocUnsafeSlow(FRAME_HEADER_BYTES + PIECE_BYTES))
  let turn = 0
  return () => pair[turn++ % 2] ?? Buffer.alloc(0)
}

const isStreamHandle = (handle: unknown): handle is object =>
  typeof handle === 'object' && handle !== null && 'useUserBuffer' in handle

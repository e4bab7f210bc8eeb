import type { Readable } from 'node:stream'
import type { Clock } from '@ferry/events/clock'
import { CopyFailed } from '../driver.ts'
import { connectTransfer } from './connect.ts'
import type { Ticket } from './connect.ts'
import { FRAME_HEADER_BYTES, textFrame, writeHead } from './frames.ts'
import type { Receipt } from './frames.ts'
import { makeMeter } from './meter.ts'
import type { Pace } from './pace.ts'

/** The source's side of a transfer. */
export type Sender = {
  /** Sends an image to its end. @throws {CopyFailed} when the stream broke. */
  readonly send: (image: Readable) => Promise<void>
  /** Sends the end frame: to be called only when the hypervisor has said that the whole image is out (rule 2). */
  readonly finish: () => Promise<Receipt>
  /** From now on nothing is held back: the guest is paused. */
  readonly hurry: () => void
  readonly close: () => void
}

/**
 * The most that waits here for the network. The guest is paused while the last of it drains, so it is small: enough
 * to keep the network busy while the next piece is read, and no more.
 */
const MOST_WAITING_BYTES = 256 * 1024

export async function openSender(
  ticket: Ticket & { readonly version: number },
  edges: { readonly clock: Clock; readonly paces: readonly Pace[]; readonly signal: AbortSignal },
): Promise<Sender> {
  const { transfer, version } = ticket
  const { clock, signal } = edges
  const socket = await connectTransfer(ticket, signal)
  const meter = makeMeter()
  let paces = edges.paces

  let broken: CopyFailed | undefined
  const breakings = new Set<(error: CopyFailed) => void>()
  const breaks = (code: string) => {
    broken ??= new CopyFailed({ type: 'StreamBroken', sentBytes: meter.bytes(), code })
    for (const tell of breakings) tell(broken)
  }
  socket.on('error', (error: NodeJS.ErrnoException) => breaks(error.code ?? error.message))
  socket.on('close', () => breaks('closed by the target'))
  // The target says nothing on this stream; reading notices when it goes away.
  socket.resume()

  /** Resolves when the bytes are with the network, which is what lets the next ones be read. */
  const write = (buffers: readonly Buffer[]) =>
    new Promise<void>((resolve, reject) => {
      if (broken !== undefined) return reject(broken)
      const settle = (act: () => void) => () => {
        breakings.delete(failed)
        act()
      }
      const failed = (error: CopyFailed) => settle(() => reject(error))()
      breakings.add(failed)
      socket.cork()
      const last = buffers.length - 1
      buffers.forEach((buffer, at) =>
        socket.write(buffer, at === last ? settle(resolve) : undefined),
      )
      socket.uncork()
    })

  await write([textFrame('header', { version, transfer })])

  return {
    send: (image) =>
      pump(image, {
        write,
        meter,
        wait: (bytes) => heldBack(paces, bytes),
        clock,
        signal,
        breakings,
      }),
    finish: async () => {
      const receipt = meter.close()
      await write([textFrame('end', receipt)])
      socket.removeAllListeners('close')
      socket.end()
      return receipt
    },
    hurry: () => {
      paces = []
    },
    close: () => socket.destroy(),
  }
}

const heldBack = (paces: readonly Pace[], bytes: number): number =>
  paces.reduce((most, pace) => Math.max(most, pace.take(bytes)), 0)

type Pumping = {
  readonly write: (buffers: readonly Buffer[]) => Promise<void>
  readonly meter: { readonly add: (piece: Buffer) => void }
  readonly wait: (bytes: number) => number
  readonly clock: Clock
  readonly signal: AbortSignal
  readonly breakings: Set<(error: CopyFailed) => void>
}

/** What is read while one write is under way becomes the next frame: the faster the image comes, the larger. */
function pump(
  image: Readable,
  { write, meter, wait, clock, signal, breakings }: Pumping,
): Promise<void> {
  return new Promise((resolve, reject) => {
    let waiting: Buffer[] = []
    let waitingBytes = 0
    let isWriting = false
    let isEnded = false

    const stop = (act: () => void) => {
      image.removeAllListeners('data').removeAllListeners('end')
      breakings.delete(fail)
      act()
    }
    const fail = (error: unknown) =>
      stop(() => reject(error instanceof Error ? error : new Error(String(error))))
    const flush = async () => {
      if (isWriting) return
      isWriting = true
      while (waitingBytes > 0) {
        const frame = [
          writeHead(Buffer.alloc(FRAME_HEADER_BYTES), 'data', waitingBytes),
          ...waiting,
        ]
        const pauseMs = wait(waitingBytes)
        waiting = []
        waitingBytes = 0
        image.resume()
        if (pauseMs > 0) await clock.sleep(pauseMs, signal)
        await write(frame)
      }
      isWriting = false
      if (isEnded) stop(resolve)
    }

    breakings.add(fail)
    image.on('data', (chunk: Buffer) => {
      meter.add(chunk)
      waiting.push(chunk)
      waitingBytes += chunk.length
      if (waitingBytes >= MOST_WAITING_BYTES) image.pause()
      flush().catch(fail)
    })
    image.on('end', () => {
      isEnded = true
      flush().catch(fail)
    })
    image.on('error', fail)
  })
}

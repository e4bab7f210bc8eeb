import type { Clock } from '@ferry/events/clock'
import { CopyFailed } from '../driver.ts'
import { FRAME_HEADER_BYTES, textFrame, writeHead } from './frames.ts'
import type { Receipt } from './frames.ts'
import type { Image } from './image.ts'
import { makeMeter } from './meter.ts'
import type { Pace } from './pace.ts'
import type { Ticket, Wire } from './wire.ts'

/** The source's side of a transfer. */
export type Sender = {
  /** Sends an image to its end. @throws {CopyFailed} when the stream broke. */
  readonly send: (image: Image) => Promise<void>
  /** Sends the end frame: to be called only when the hypervisor has said that the whole image is out (rule 2). */
  readonly finish: () => Promise<Receipt>
  /** From now on nothing is held back: the guest is paused. */
  readonly hurry: () => void
  readonly close: () => void
}

export async function openSender(
  ticket: Ticket,
  edges: {
    readonly wire: Wire
    readonly clock: Clock
    readonly paces: readonly Pace[]
    readonly signal: AbortSignal
  },
): Promise<Sender> {
  const { transfer, key, version } = ticket
  const { clock, signal } = edges
  const stream = await edges.wire.connect(ticket, signal)
  const meter = makeMeter(key)
  let { paces } = edges
  let image: Image | undefined
  let broken: CopyFailed | undefined

  const breaks = (code: string): CopyFailed => {
    broken ??= new CopyFailed({ type: 'StreamBroken', sentBytes: meter.bytes(), code })
    image?.stop(broken)
    return broken
  }
  stream.on('error', (error: NodeJS.ErrnoException) => breaks(error.code ?? error.message))
  stream.on('close', () => breaks('closed by the target'))
  // A target that takes nothing more must not hold back what ends the attempt.
  const stop = () => stream.destroy()
  if (signal.aborted) stop()
  signal.addEventListener('abort', stop, { once: true })
  // The target says nothing on this stream; reading notices when it goes away.
  stream.resume()

  /** Resolves when the bytes are with the network. */
  const write = (bytes: Buffer) =>
    new Promise<void>((resolve, reject) => {
      if (broken !== undefined) return reject(broken)
      stream.write(bytes, (error?: NodeJS.ErrnoException | null) =>
        error ? reject(breaks(error.code ?? error.message)) : resolve(),
      )
    })

  await write(textFrame('header', { version, transfer }))

  return {
    send: async (from) => {
      image = from
      if (broken !== undefined) throw broken
      // While one piece is being written the next is read, and no third: what waits here is what a paused guest waits for.
      let written = Promise.resolve()
      for (;;) {
        const frame = await from.next()
        await written
        if (frame === undefined) return
        const piece = frame.subarray(FRAME_HEADER_BYTES)
        meter.add(piece)
        const pauseMs = Math.max(0, ...paces.map((pace) => pace.take(piece.length)))
        if (pauseMs > 0) await clock.sleep(pauseMs, signal)
        writeHead(frame, 'data', piece.length)
        written = write(frame)
        // Its failure is thrown where it is waited for.
        written.catch(() => {})
      }
    },
    finish: async () => {
      const receipt = meter.close()
      await write(textFrame('end', receipt))
      stream.removeAllListeners('close')
      stream.end()
      return receipt
    },
    hurry: () => {
      paces = []
    },
    close: () => {
      signal.removeEventListener('abort', stop)
      stream.destroy()
    },
  }
}

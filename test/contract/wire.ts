import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import { CopyFailed } from '@ferry/host-agent/driver'
import type { PerformOrder, ReceiveOrder } from '@ferry/host-agent/driver'
import { FRAME_HEADER_BYTES } from '@ferry/host-agent/transfer/frames'
import { testDial } from '../dial.ts'

/** Where an image goes in and comes out again; it breaks after so many bytes. */
export function openWire(breaksAfterBytes = Number.POSITIVE_INFINITY) {
  const stream = new PassThrough({ highWaterMark: 2 ** 20 })
  let passedBytes = 0
  stream.on('error', () => {}).on('data', (piece: Buffer) => (passedBytes += piece.length))
  stream.pause()
  let tell = () => {}
  const told = new Promise<void>((resolve) => {
    tell = resolve
  })
  return {
    stream,
    breaksAfterBytes,
    passedBytes: () => passedBytes,
    /** The source has said that this was all, also of an image that took another way. */
    told,
    end: () => {
      stream.end()
      tell()
    },
    cut: () => void stream.destroy(),
  }
}
export type Wire = ReturnType<typeof openWire>

/** Where nothing comes directly. */
export const nobodyTells = (): Promise<never> =>
  Promise.reject(new Error('the driver waits for an image that comes directly'))

/** No gate holds it up, and what it brings goes into the wire. */
export const performOrder = ({ stream, breaksAfterBytes }: Wire): PerformOrder => ({
  dial: testDial(),
  signal: new AbortController().signal,
  gate: async () => {},
  paused: () => {},
  round: () => {},
  progress: () => {},
  send: async (image) => {
    let sentBytes = 0
    for (let frame = await image.next(); frame !== undefined; frame = await image.next()) {
      const piece = Buffer.from(frame.subarray(FRAME_HEADER_BYTES))
      sentBytes += piece.length
      if (stream.destroyed || sentBytes > breaksAfterBytes) {
        stream.destroy()
        throw new CopyFailed({ type: 'StreamBroken', sentBytes, code: 'EPIPE' })
      }
      if (!stream.write(piece)) await Promise.race([once(stream, 'drain'), once(stream, 'close')])
    }
  },
})

export const receiveOrder = ({ stream, told }: Wire): ReceiveOrder => ({
  signal: new AbortController().signal,
  told: () => told,
  fill: async (hypervisor) => {
    let receivedBytes = 0
    hypervisor.on('error', () => {})
    try {
      for await (const chunk of stream) {
        receivedBytes += (chunk as Buffer).length
        hypervisor.write(chunk)
      }
    } catch {
      throw new CopyFailed({ type: 'StreamCut', receivedBytes })
    }
    hypervisor.end()
  },
})

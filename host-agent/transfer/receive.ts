import type { Writable } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import { Invalid, parse } from '@ferry/schemas/parse'
import { CopyFailed } from '../driver.ts'
import { EndFrame, FrameInvalid, HeaderFrame, frameReader } from './frames.ts'
import type { Receipt } from './frames.ts'
import { makeMeter } from './meter.ts'

/** The most that waits here for the hypervisor; beyond it nothing is read, and TCP holds the source back. */
const MOST_WAITING_BYTES = 512 * 1024
/** So much is handed to the hypervisor in one piece, if it has come by then. */
const BATCH_BYTES = 256 * 1024

/**
 * The target's side: takes the frames apart, hands the image to the hypervisor, and checks the end frame against what
 * came. Only when this has resolved is the image complete (rule 2).
 *
 * @throws {CopyFailed} which says what was wrong with the stream, or that the hypervisor stopped taking it.
 */
export function receiveImage(
  socket: TLSSocket,
  hypervisor: Writable,
  expected: { readonly transfer: string; readonly version: number },
): Promise<Receipt> {
  return new Promise((resolve, reject) => {
    const meter = makeMeter()
    let waiting: Buffer[] = []
    let waitingBytes = 0
    let underWayBytes = 0
    let isHeaderRead = false
    let receipt: Receipt | undefined
    let isSettled = false

    const settle = (act: () => void) => {
      if (isSettled) return
      isSettled = true
      socket.removeAllListeners('data')
      hypervisor.removeListener('error', hypervisorFailed)
      hypervisor.on('error', () => {})
      act()
    }
    const fail = (failure: CopyFailed['failure'], cause?: Error) =>
      settle(() => {
        socket.destroy()
        reject(new CopyFailed(failure, cause && { cause }))
      })
    const hypervisorFailed = (error: Error) =>
      fail(
        { type: 'HypervisorFailed', message: `it stopped taking the image (${error.message})` },
        error,
      )

    const flush = () => {
      if (isSettled || underWayBytes > 0) return
      if (waitingBytes === 0) {
        if (receipt !== undefined) finish(receipt)
        return
      }
      const pieces = waiting
      underWayBytes = waitingBytes
      waiting = []
      waitingBytes = 0
      // One system call for all of them, and no copy.
      hypervisor.cork()
      const last = pieces.length - 1
      pieces.forEach((piece, at) => hypervisor.write(piece, at === last ? taken : undefined))
      hypervisor.uncork()
    }
    const taken = (error?: Error | null) => {
      if (error) return hypervisorFailed(error)
      underWayBytes = 0
      if (socket.isPaused()) socket.resume()
      return flush()
    }
    const finish = (whole: Receipt) =>
      settle(() => {
        socket.end()
        hypervisor.end()
        resolve(whole)
      })

    const read = frameReader({
      data: (piece) => {
        if (!isHeaderRead) throw new FrameInvalid('data came before the header')
        if (receipt !== undefined) throw new FrameInvalid('data came behind the end')
        meter.add(piece)
        waiting.push(piece)
        waitingBytes += piece.length
      },
      text: (kind, body) => {
        if (kind === 'header') {
          const { version, transfer } = parse(HeaderFrame, JSON.parse(body), 'the header frame')
          if (isHeaderRead) throw new FrameInvalid('a second header')
          if (transfer !== expected.transfer)
            throw new FrameInvalid(`the header is of transfer ${transfer}`)
          if (version !== expected.version)
            throw new FrameInvalid(`version ${version}, not ${expected.version}`)
          isHeaderRead = true
          return
        }
        const sent = parse(EndFrame, JSON.parse(body), 'the end frame')
        const came = meter.close()
        if (came.bytes !== sent.bytes)
          throw new CopyFailed({
            type: 'CountMismatch',
            expectedBytes: sent.bytes,
            foundBytes: came.bytes,
          })
        if (came.digest !== sent.digest)
          throw new CopyFailed({
            type: 'DigestMismatch',
            expected: sent.digest,
            found: came.digest,
          })
        receipt = came
      },
    })

    let isScheduled = false
    const schedule = () => {
      if (isScheduled) return
      isScheduled = true
      // TLS gives 16 KiB at a time; what came in one turn of the event loop goes on together.
      setImmediate(() => {
        isScheduled = false
        flush()
      })
    }
    socket.on('data', (chunk: Buffer) => {
      try {
        read(chunk)
      } catch (error) {
        if (error instanceof CopyFailed) return fail(error.failure)
        if (
          error instanceof FrameInvalid ||
          error instanceof Invalid ||
          error instanceof SyntaxError
        )
          return fail({ type: 'FrameInvalid', problem: error.message }, error)
        throw error
      }
      if (waitingBytes + underWayBytes >= MOST_WAITING_BYTES) socket.pause()
      if (waitingBytes >= BATCH_BYTES) return flush()
      return schedule()
    })
    const cut = () => {
      if (receipt === undefined) fail({ type: 'StreamCut', receivedBytes: meter.bytes() })
    }
    socket.on('end', cut)
    socket.on('close', cut)
    socket.on('error', cut)
    hypervisor.on('error', hypervisorFailed)
    hypervisor.on('close', () =>
      fail({ type: 'HypervisorFailed', message: 'it closed its end of the image' }),
    )
    if (socket.destroyed) cut()
    else socket.resume()
  })
}

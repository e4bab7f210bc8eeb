import type { Duplex, Writable } from 'node:stream'
import { Invalid, parse } from '@ferry/schemas/parse'
import { CopyFailed } from '../driver.ts'
import { EndFrame, FrameInvalid, HeaderFrame, frameReader } from './frames.ts'
import type { Receipt } from './frames.ts'
import { giveBack } from './give-back.ts'
import { makeMeter } from './meter.ts'

/** The most that waits here for the hypervisor; beyond it nothing is read, and TCP holds the source back. */
const MOST_WAITING_BYTES = 512 * 1024

/** So much is handed to the hypervisor in one write, if it has come by then. */
const BATCH_BYTES = 128 * 1024

/** Whether the source has said elsewhere that this was all: its word can stand in for an end frame that got lost. */
export type SaidWhole = (came: Receipt) => Promise<boolean>

export type Arrived = Receipt & {
  /** False: it got lost, and the source's word stood in for it. */
  readonly hasEndFrame: boolean
}

/**
 * The target's side: takes the frames apart, hands the image to the hypervisor, and checks the end frame against what
 * came. Only when this has resolved is the image complete (rule 2); whether the hypervisor has loaded it, it says itself.
 * One that has it all may hang up before the end frame comes; one that hangs up too early cannot be written to.
 *
 * @throws {CopyFailed} which says what was wrong with the stream, or that the hypervisor stopped taking it.
 */
export function receiveImage(
  stream: Duplex,
  hypervisor: Writable,
  expected: { readonly transfer: string; readonly version: number; readonly key: Uint8Array },
  isSaidWhole: SaidWhole = async () => false,
): Promise<Arrived> {
  return new Promise((resolve, reject) => {
    const meter = makeMeter(expected.key)
    let pieces: Buffer[] = []
    let isHeaderRead = false
    let receipt: Receipt | undefined
    let isSettled = false
    let isCut = false

    const settle = (act: () => void) => {
      if (isSettled) return
      isSettled = true
      stream.removeAllListeners('data')
      hypervisor.removeListener('error', hypervisorFailed)
      hypervisor.on('error', () => {})
      act()
    }
    const fail = (failure: CopyFailed['failure'], cause?: Error) =>
      settle(() => {
        stream.destroy()
        reject(new CopyFailed(failure, cause && { cause }))
      })
    const hypervisorFailed = (error: Error) =>
      fail(
        { type: 'HypervisorFailed', message: `it stopped taking the image (${error.message})` },
        error,
      )

    const read = frameReader({
      data: (piece) => {
        if (!isHeaderRead) throw new FrameInvalid('data came before the header')
        if (receipt !== undefined) throw new FrameInvalid('data came behind the end')
        if (hypervisor.destroyed)
          throw new CopyFailed({
            type: 'HypervisorFailed',
            message: 'it hung up before it had the whole image',
          })
        meter.add(piece)
        pieces.push(piece)
      },
      text: (kind, body) => {
        if (kind === 'header') {
          if (isHeaderRead) throw new FrameInvalid('a second header')
          checkHeader(body, expected)
          isHeaderRead = true
        } else receipt = checkEnd(body, meter.close())
      },
    })

    /** TLS gives 16 KiB at a time; what comes in one turn of the event loop goes on in one write, up to a limit. */
    let isGathering = false
    const gather = () => {
      if (hypervisor.writableLength >= BATCH_BYTES) {
        hypervisor.uncork()
        isGathering = false
      }
      if (isGathering) return
      isGathering = true
      hypervisor.cork()
      setImmediate(() => {
        if (isGathering) hypervisor.uncork()
        isGathering = false
      })
    }

    stream.on('data', (chunk: Buffer) => {
      try {
        read(chunk)
      } catch (error) {
        if (error instanceof CopyFailed) return fail(error.failure)
        if (isNonsense(error)) return fail({ type: 'FrameInvalid', problem: error.message }, error)
        throw error
      }
      gather()
      const last = pieces.length - 1
      for (const [at, piece] of pieces.entries())
        if (at < last) hypervisor.write(piece)
        else hypervisor.write(piece, (error) => error ?? giveBack(chunk))
      pieces = []
      if (receipt === undefined) {
        if (hypervisor.writableLength >= MOST_WAITING_BYTES) stream.pause()
        return undefined
      }
      const whole = receipt
      return settle(() => {
        stream.end()
        hypervisor.end()
        resolve({ ...whole, hasEndFrame: true })
      })
    })
    hypervisor.on('drain', () => stream.resume())
    hypervisor.on('error', hypervisorFailed)
    const cut = () => {
      if (isCut || isSettled || receipt !== undefined) return
      isCut = true
      const came = meter.close()
      const notWhole = (cause?: Error) =>
        fail({ type: 'StreamCut', receivedBytes: came.bytes }, cause)
      isSaidWhole(came).then((isWhole) => {
        if (!isWhole) return notWhole()
        return settle(() => {
          hypervisor.end()
          resolve({ ...came, hasEndFrame: false })
        })
      }, notWhole)
    }
    stream.on('end', cut)
    stream.on('close', cut)
    stream.on('error', cut)
    if (stream.destroyed) cut()
    else stream.resume()
  })
}

function checkHeader(
  body: string,
  expected: { readonly transfer: string; readonly version: number },
): void {
  const { version, transfer } = parse(HeaderFrame, JSON.parse(body), 'the header frame')
  if (transfer !== expected.transfer)
    throw new FrameInvalid(`the header is of transfer ${transfer}`)
  if (version !== expected.version)
    throw new FrameInvalid(`version ${version}, not ${expected.version}`)
}

function checkEnd(body: string, came: Receipt): Receipt {
  const sent = parse(EndFrame, JSON.parse(body), 'the end frame')
  if (came.bytes !== sent.bytes)
    throw new CopyFailed({
      type: 'CountMismatch',
      expectedBytes: sent.bytes,
      foundBytes: came.bytes,
    })
  if (came.digest !== sent.digest)
    throw new CopyFailed({ type: 'DigestMismatch', expected: sent.digest, found: came.digest })
  return came
}

/** What a stranger's bytes can cause, as against a bug of ours. */
const isNonsense = (error: unknown): error is Error =>
  error instanceof FrameInvalid || error instanceof Invalid || error instanceof SyntaxError

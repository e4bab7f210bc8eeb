import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import type { PerformOrder } from '../../driver.ts'
import { imageFromPieces } from '../../transfer/image.ts'
import { makePace } from '../../transfer/pace.ts'
import { imageScan } from './image-scan.ts'
import type { Pause } from './pause.ts'

export type ImageKind = {
  /** Who writes it; absent: xl. */
  readonly from?: 'xl' | 'libxl'
  /** The guest is suspended before the first of its memory goes out. */
  readonly isStill?: boolean
}

/** The image as it goes by: read to its end and no further, held back to the policy's limit, and told of. */
export function flowOf(
  pieces: () => Promise<Buffer | undefined>,
  memoryBytes: number,
  order: PerformOrder,
  clock: Clock,
  gate: Pause,
  { from = 'xl', isStill = false }: ImageKind,
) {
  const scan = imageScan(from)
  const policy = order.dial.policy()
  const pace = makePace(clock, policy.bandwidthBytesPerSecond)
  order.dial.onTurn(policy, async (next) => pace.limit(next.bandwidthBytesPerSecond))
  const began = clock.elapsed()
  let sentBytes = 0
  let toldAt = began
  let told = 0
  let hasEndedEarly = false
  const progress = () => {
    const seconds = Math.max(0.001, (clock.elapsed() - began) / 1000)
    return {
      round: scan.rounds(),
      transferredBytes: sentBytes,
      // Behind the first round nobody outside Xen knows what has changed since.
      remainingBytes: scan.rounds() > 1 ? 0 : Math.max(0, memoryBytes - sentBytes),
      totalBytes: Math.max(memoryBytes, sentBytes),
      bandwidthBytesPerSecond: sentBytes / seconds,
      dirtyBytesPerSecond: 0,
      expectedDowntimeMs: 0,
      throttlePercent: 0,
    }
  }
  async function* flowing() {
    while (!scan.isWhole()) {
      const limitMs = sentBytes === 0 ? FIRST_MS : NEXT_MS
      const piece = await within(clock, limitMs, 'more of the image', pieces())
      hasEndedEarly = piece === undefined
      if (piece === undefined) throw new Error('it ended before its image did')
      const taken = piece.subarray(0, scan.take(piece))
      sentBytes += taken.length
      if (scan.isPaused()) gate.isPaused()
      if (scan.rounds() > told) {
        told = scan.rounds()
        order.round(progress())
      } else if (clock.elapsed() - toldAt > SAMPLE_MS) {
        toldAt = clock.elapsed()
        order.progress(progress())
      }
      // Whoever waits for the last memory waits no longer than he must; where it is all that there is, the limit stands.
      const isPaced = isStill || gate.times().pausedAt === 0
      const pauseMs = isPaced ? pace.take(taken.length) : 0
      if (pauseMs > 0) await clock.sleep(pauseMs, order.signal)
      yield taken
    }
  }
  const image = imageFromPieces(flowing())
  return {
    image,
    stop: image.stop,
    rounds: scan.rounds,
    hasEndedEarly: () => hasEndedEarly,
  }
}

const SAMPLE_MS = 1000

/** How long xl may take to its first byte, and to one more while it has something to send. */
const FIRST_MS = 60_000
/** The guest is given a minute by libxl to suspend itself. */
const NEXT_MS = 90_000

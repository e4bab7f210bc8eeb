import { execFile } from 'node:child_process'
import { constants, open } from 'node:fs'
import { rm } from 'node:fs/promises'
import { Socket } from 'node:net'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { Overdue, within } from '@ferry/events/clock'
import { CopyFailed } from '../../driver.ts'
import type { PerformOrder, SentByHypervisor } from '../../driver.ts'
import { writeOut } from './disks.ts'
import { flowOf } from './flow.ts'
import type { ImageKind } from './flow.ts'
import { banner, go, migratedAway, ready } from './handshake.ts'
import { ImageInvalid } from './image-scan.ts'
import type { Domain } from './listing.ts'
import { begin, piecesOf } from './other-end.ts'
import type { Began } from './other-end.ts'
import { openPause } from './pause.ts'
import { XlFailed } from './xl.ts'
import type { Xl } from './xl.ts'

/**
 * The source's half. xl sends its image to this process, which answers in the target's place:
 *
 *     banner ──► rounds 1, 2, ... ──► suspended ──► the image's end ──► "ready" ──► NAME--migratedaway, "go"
 *                                         │                               ▲
 *                                        gate ────────────────────────────┘ or xl hears nothing more: it runs on
 *
 * With "go" xl asks for nothing that is needed any more, and is ended: the guest stands suspended and whole, and hangs
 * on no process.
 */
export async function performLive(
  { domain, ...its }: Leaver,
  order: PerformOrder,
  xl: Xl,
  folder: string,
): Promise<SentByHypervisor> {
  const words = ['migrate', '-s', '', String(domain.domid), RELAY]
  const began = await begin(folder, words, ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'], xl.clock)
  const [, , , image, answers] = began.child.stdio
  if (!isSocket(image) || !isSocket(answers)) throw new Error('Node gave xl no pipes')
  answers.on('error', () => {})
  const hangUp = () => {
    image.destroy()
    answers.destroy()
  }
  return leaving(domain, order, xl, {
    ...its,
    began,
    image,
    hangUp,
    begun: () => answers.write(banner),
    through: async (pieces) => {
      answers.write(ready)
      await within(xl.clock, GO_MS, '"go" of xl', readGo(pieces))
      await began.kill()
    },
  })
}

/** xl runs this as what leads to the other end (`-s ''`); its two ends are the two pipes that xl was given by us. */
const RELAY = 'cat <&4 3>&- 4>&- & exec cat >&3 3>&- 4>&-'

/**
 * The same for a guest whose memory Xen cannot follow while it runs: it is suspended, saved, and then left paused. The
 * bytes are the same, so the target need not know.
 */
export async function performStill(
  { domain, ...its }: Leaver,
  order: PerformOrder,
  xl: Xl,
  folder: string,
): Promise<SentByHypervisor> {
  const path = join(folder, 'image.fifo')
  await rm(path, { force: true })
  await promisify(execFile)('mkfifo', ['-m', '600', path])
  // It can be opened to read before anybody writes, and ends when xl closes it.
  const fd = await promisify(open)(path, constants.O_RDONLY | constants.O_NONBLOCK)
  const image = new Socket({ fd, readable: true, writable: false })
  const words = ['save', '-p', String(domain.domid), path]
  const began = await begin(folder, words, ['ignore', 'ignore', 'pipe'], xl.clock)
  try {
    return await leaving(domain, order, xl, {
      ...its,
      isStill: true,
      began,
      image,
      hangUp: () => image.destroy(),
      begun: () => {},
      through: async () => {
        const status = await within(xl.clock, GO_MS, 'the end of xl save', began.ended)
        if (status !== 0) throw failed(began.complaint())
        await xl.rename(domain, migratedAway(domain.name))
      },
    })
  } catch (error) {
    await within(xl.clock, GO_MS, 'the end of xl save', began.ended).catch(began.kill)
    // xl leaves it paused also where it had to run on.
    const now = (await xl.domains()).find(({ domid }) => domid === domain.domid)
    if (now?.state === 'paused') await xl.unpause(now)
    throw error
  } finally {
    await rm(path, { force: true })
  }
}

export type Leaver = {
  readonly domain: Domain
  readonly memoryBytes: number
  /** What its disks lie on. */
  readonly disks: readonly string[]
}

/** How long xl may take to what follows its last byte. */
export const GO_MS = 60_000

/** What all ways of leaving have in common. */
type Leaving = ImageKind &
  Omit<Leaver, 'domain'> & {
    readonly began: Pick<Began, 'ended' | 'complaint' | 'kill'>
    readonly image: Readable
    /** xl hears no more from us: before it is through, the guest runs on. */
    readonly hangUp: () => void
    readonly begun: () => void
    /** All is out and the gate is passed: makes the guest stand as one that was sent. */
    readonly through: (pieces: () => Promise<Buffer | undefined>) => Promise<void>
  }

export async function leaving(
  domain: Domain,
  order: PerformOrder,
  xl: Xl,
  { memoryBytes, disks, began, image, hangUp, begun, through, ...kind }: Leaving,
): Promise<SentByHypervisor> {
  const { clock } = xl
  const pieces = piecesOf(image)
  const gate = openPause(domain, order, xl)
  const flow = flowOf(pieces, memoryBytes, order, clock, gate, kind)
  const stop = () => {
    flow.stop(failed('it was told to stop'))
    hangUp()
  }
  order.signal.addEventListener('abort', stop, { once: true })
  gate.refused.then(
    (error) => {
      flow.stop(error)
      hangUp()
    },
    () => {},
  )
  try {
    order.signal.throwIfAborted()
    begun()
    await order.send(flow.image)
    await gate.passed()
    await writeOut(disks, clock)
    const sentAt = clock.now()
    order.signal.throwIfAborted()
    await through(pieces)
    return { ...gate.times(), sentAt, rounds: flow.rounds() }
  } catch (error) {
    hangUp()
    await within(clock, GO_MS, 'the end of xl', began.ended).catch(began.kill)
    order.signal.throwIfAborted()
    const refusal = gate.refusal()
    if (refusal !== undefined) throw refusal
    if (flow.hasEndedEarly() && !(error instanceof CopyFailed))
      throw failed(began.complaint(), error)
    throw isXl(error) ? failed(error.message, error) : error
  } finally {
    order.signal.removeEventListener('abort', stop)
    gate.close()
    hangUp()
  }
}

async function readGo(pieces: () => Promise<Buffer | undefined>): Promise<void> {
  let said: Buffer = Buffer.alloc(0)
  while (said.length < go.length) {
    const piece = await pieces()
    if (piece === undefined) throw failed('xl ended without its last word')
    said = Buffer.concat([said, piece])
  }
  if (!said.equals(go)) throw failed(`xl said something else than "go": ${said.toString()}`)
}

/** It is silent, or says what it should not. */
const isXl = (error: unknown): error is Error =>
  error instanceof Overdue || error instanceof ImageInvalid || error instanceof XlFailed

const isSocket = (stream: unknown): stream is Socket => stream instanceof Socket

export const failed = (message: string, cause?: unknown) =>
  new CopyFailed({ type: 'HypervisorFailed', message }, { cause })

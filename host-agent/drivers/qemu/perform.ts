import { rm } from 'node:fs/promises'
import { Overdue, within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { CopyFailed } from '../../driver.ts'
import type { PerformOrder, SentByHypervisor } from '../../driver.ts'
import { imageFromSocket } from '../../transfer/image.ts'
import { listenFor } from '../one-visitor.ts'
import { socketsIn } from './copy.ts'
import { isPausedByHand } from './monitors.ts'
import type { Attached } from './monitors.ts'
import { progressOf, queryMigration, setLimits, setPolicy } from './migration.ts'

/**
 * The source's half of a migration, told by QEMU's own events:
 *
 *     migrate ──► MIGRATION_PASS 1, 2, ... ──► STOP ──► pre-switchover ──► completed (paused and whole)
 *                                                         │    ▲
 *                                                        gate ─┘ migrate-continue, or migrate_cancel: it runs on
 *
 * Until `migrate-continue` part of the image is held back, so a guest that runs on from there cannot have been
 * committed anywhere.
 */
export async function perform(
  here: Attached,
  order: PerformOrder,
  clock: Clock,
): Promise<SentByHypervisor> {
  const { copy, qmp } = here
  const path = socketsIn(copy.folder).image
  const policy = order.dial.policy()
  await setPolicy(qmp, policy)
  const door = await listenFor(path)
  const watched = watch(here, order, clock)
  const forgetDial = order.dial.onTurn(policy, (next) => setLimits(qmp, next))
  const stop = () => door.close()
  order.signal.addEventListener('abort', stop, { once: true })
  try {
    order.signal.throwIfAborted()
    await qmp.execute('migrate', { uri: `unix:${path}` })
    const image = await within(
      clock,
      CONNECT_MS,
      'QEMU connecting with the image',
      Promise.race([door.socket, watched.sent.then(overBeforeItBegan)]),
    )
    const sending = order.send(imageFromSocket(image)).catch((error: unknown) => {
      // QEMU hears of it by its broken socket, and lets the guest run on.
      image.destroy()
      throw error
    })
    const [sent, sentBy] = await Promise.allSettled([sending, watched.sent])
    // The stream's own trouble is nearer to the cause than QEMU's complaint about it.
    order.signal.throwIfAborted()
    if (watched.refusal !== undefined) throw watched.refusal
    if (sent.status === 'rejected') throw sent.reason
    if (sentBy.status === 'rejected') throw sentBy.reason
    return sentBy.value
  } finally {
    order.signal.removeEventListener('abort', stop)
    forgetDial()
    watched.forget()
    door.close()
    await rm(path, { force: true })
  }
}

export const byOtherHand = (): CopyFailed =>
  new CopyFailed({
    type: 'HypervisorFailed',
    message: 'somebody else has paused it',
    otherHand: true,
  })

const CONNECT_MS = 10_000

const overBeforeItBegan = (): never => {
  throw new CopyFailed({ type: 'HypervisorFailed', message: 'QEMU sent nothing' })
}

const SAMPLE_MS = 250

/** Follows QEMU's events to the end of the migration, and works the gate. */
function watch(here: Attached, order: PerformOrder, clock: Clock) {
  const { qmp } = here
  let pausedAt = 0
  /** Resolves when it is known who has paused the guest. */
  let asked: Promise<void> = Promise.resolve()
  let gatePassedAt = 0
  let rounds = 0
  let isOver = false
  const watched: { refusal?: unknown } = {}
  let resolve: (sent: SentByHypervisor) => void = () => {}
  let reject: (error: Error) => void = () => {}
  const sent = new Promise<SentByHypervisor>((yes, no) => {
    resolve = yes
    reject = no
  })

  const refuse = async (refusal: unknown) => {
    watched.refusal ??= refusal
    await qmp.execute('migrate_cancel')
  }
  const askWho = async (): Promise<void> => {
    try {
      if (await isPausedByHand(here)) await refuse(byOtherHand())
    } catch (error) {
      // With the guest paused QEMU first flushes its disks, and says nothing while these are slow.
      if (!(error instanceof Overdue) || isOver) throw error
      return askWho()
    }
  }
  const atTheGate = async () => {
    try {
      await asked
      if (watched.refusal !== undefined) return
      // QEMU stops a guest that runs before it is here.
      if (pausedAt === 0) throw byOtherHand()
      order.paused(pausedAt)
      await order.gate()
      gatePassedAt = clock.now()
      await qmp.execute('migrate-continue', { state: 'pre-switchover' })
    } catch (error) {
      await refuse(error)
    }
  }
  const failed = async () => {
    const { 'error-desc': why = 'the migration failed' } = await queryMigration(qmp)
    reject(new CopyFailed({ type: 'HypervisorFailed', message: why }))
  }
  const tell = async (listener: PerformOrder['progress']) => {
    const progress = progressOf(await queryMigration(qmp))
    if (progress !== undefined && !isOver) listener(progress)
  }
  /** What happens between two events may not get lost: an error there ends the copy. */
  const carefully = (work: Promise<void>) => {
    work.catch((error: unknown) =>
      reject(error instanceof Error ? error : new Error(String(error))),
    )
  }

  const forget = qmp.onEvent(({ event, data, at }) => {
    if (event === 'STOP') {
      pausedAt = at
      // At once: when QEMU switches over, it does so in the same breath.
      asked = askWho()
      carefully(asked)
    }
    if (event === 'RESUME') pausedAt = 0
    if (event === 'MIGRATION_PASS') {
      rounds += 1
      // With the guest paused, QEMU has better things to do than to answer questions.
      if (pausedAt === 0) carefully(tell(order.round))
    }
    if (event !== 'MIGRATION') return
    if (data.status === 'pre-switchover') carefully(atTheGate())
    if (data.status === 'completed') resolve({ pausedAt, gatePassedAt, sentAt: at, rounds })
    if (data.status === 'failed') carefully(failed())
    if (data.status === 'cancelled')
      reject(new CopyFailed({ type: 'HypervisorFailed', message: 'the migration was cancelled' }))
  })
  void qmp.closed.then(() =>
    reject(new CopyFailed({ type: 'HypervisorFailed', message: 'QEMU ended while it sent' })),
  )
  const aborted = () =>
    reject(new CopyFailed({ type: 'HypervisorFailed', message: 'it was told to stop' }))
  order.signal.addEventListener('abort', aborted, { once: true })

  const sampling = new AbortController()
  const sample = async () => {
    for (;;) {
      await clock.sleep(SAMPLE_MS, sampling.signal)
      if (pausedAt === 0) await tell(order.progress)
    }
  }
  sample().catch(() => {})
  sent.catch(() => {})
  return Object.assign(watched, {
    sent,
    forget: () => {
      isOver = true
      sampling.abort()
      forget()
      order.signal.removeEventListener('abort', aborted)
    },
  })
}

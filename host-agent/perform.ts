import type { EventOf } from '@ferry/schemas/event'
import type { CopyProgress } from '@ferry/schemas/policy'
import type { Clock } from '@ferry/events/clock'
import { LogUnavailable } from '@ferry/events/log'
import type { Log } from '@ferry/events/log'
import { facts } from '@ferry/events/subjects'
import { verdictAwaited, verdictOn } from '@ferry/events/verdict'
import { dialFor, dialUnder } from './dial.ts'
import { CopyFailed } from './driver.ts'
import type { PostCopy } from './driver.ts'
import { openGate } from './gate.ts'
import type { Gate } from './gate.ts'
import { contestedOn, said } from './hands.ts'
import type { MovingHands } from './hands.ts'
import { roundsWorthTelling } from './rounds.ts'
import { directReceipt, offerReceipt } from './transfer/direct.ts'
import type { Receipt } from './transfer/frames.ts'
import { openSender } from './transfer/send.ts'
import type { Sender } from './transfer/send.ts'
import type { Fact, Voice } from './voice.ts'

/** The source's half of a copy: the guest's image leaves, until the target has heard that this was all of it. */
export async function perform(
  command: EventOf<'Perform'>,
  hands: MovingHands,
  signal: AbortSignal,
  dial = dialFor(command, hands.say),
): Promise<Fact> {
  const { driver, key, voice, wire, clock, host } = hands
  const { vm } = command
  const {
    admission,
    target,
    targetKey,
    transfer,
    address,
    sealedKey,
    sealedCookie,
    transferVersion: version,
  } = command.data
  const fail = (failure: CopyFailed['failure']): Fact => ({
    ...voice.about(command, 'PerformFailed'),
    type: 'PerformFailed',
    data: { admission, failure },
  })
  const secret = key.open(sealedKey, targetKey)
  const cookie = sealedCookie === undefined ? undefined : key.open(sealedCookie, targetKey)
  if (secret === undefined || (sealedCookie !== undefined && cookie === undefined))
    return fail({ type: 'KeySealed', host })

  const contested = contestedOn(target, command)
  const { postCopyAfterMs: afterMs } = command.data.policy
  if (afterMs !== undefined && (await verdictOn(hands.log, contested))?.type === 'Committed')
    return wentOn(command, hands, secret, signal)
  const gate = openGate(hands.log, clock, contested)
  const offering =
    afterMs === undefined ? undefined : makeOffer(command, hands, { secret, gate, signal, afterMs })
  const switchover = quietly(clock, signal)
  const worthTelling = roundsWorthTelling(clock)
  const isDirect = command.data.policy.directConnections !== undefined
  const under = isDirect ? dialUnder(hands.pace, dial, vm, hands.say) : undefined
  let sender: Sender | undefined
  try {
    const sent = await driver.perform(vm, {
      dial: under?.dial ?? dial,
      ...(cookie === undefined ? {} : { cookie: Buffer.from(cookie).toString('utf8') }),
      signal,
      // Only now: a driver that has nothing to send must not use the transfer up.
      send: async (image) => {
        const ticket = { transfer, address, key: secret, version }
        sender = await openSender(ticket, { wire, clock, paces: [hands.pace], signal })
        await sender.send(image)
      },
      gate: gate.pass,
      ...(offering === undefined ? {} : { postCopy: offering.postCopy }),
      paused: (pausedAt) => {
        sender?.hurry()
        const fact = { ...voice.about(command, 'SourcePaused'), data: { admission, pausedAt } }
        switchover.later(() => voice.mention({ ...fact, type: 'SourcePaused' }))
      },
      round: (progress) => {
        if (worthTelling()) voice.mention(roundPassed(command, voice, progress))
      },
      progress: (progress) => sample(command, hands, progress),
    })
    const { directBytes, ...told } = sent
    if (offering?.isTaken() !== true) await lastLook(gate, vm, hands)
    // Rule 2: the hypervisor has said "completed, paused"; only now may the target hear that this was all.
    const receipt =
      directBytes === undefined
        ? await finished(sender)
        : { ...directReceipt(secret, transfer, directBytes), isDirect: true }
    return {
      ...voice.about(command, 'Performed'),
      type: 'Performed',
      data: { admission, ...told, ...receipt, endFrameAt: clock.now() },
    }
  } catch (error) {
    signal.throwIfAborted()
    // Behind Committed nobody takes the hypervisor's word for it: what became of the guest is looked at.
    if (offering?.isTaken() === true) return wentOn(command, hands, secret, signal)
    if (error instanceof CopyFailed) return fail(error.failure)
    throw error
  } finally {
    sender?.close()
    under?.close()
    gate.close()
    switchover.over()
    await voice.caughtUp()
  }
}

function finished(sender: Sender | undefined): Promise<Receipt> {
  if (sender === undefined) throw new Error('the driver says that it sent an image, and did not')
  return sender.finish()
}

type Offering = {
  readonly secret: Uint8Array
  readonly gate: Gate
  readonly signal: AbortSignal
  readonly afterMs: number
}

/**
 * Post-copy: the source says that its guest is paused, and that the target may commit without all of it. It stays so until
 * the verdict is there, whichever that is.
 */
function makeOffer(
  command: EventOf<'Perform'>,
  { log, voice, say, remembered }: MovingHands,
  { secret, gate, signal, afterMs }: Offering,
): { readonly postCopy: PostCopy; readonly isTaken: () => boolean } {
  const { admission, target, transfer } = command.data
  let isTaken = false
  const offer: PostCopy['offer'] = async ({ pausedAt, bytes }) => {
    await gate.pass()
    const decided = verdictAwaited(log, contestedOn(target, command), { after: admission, signal })
    decided.catch(() => {})
    await remembered()
    await insist(log, say, signal, {
      ...voice.about(command, 'SourcePaused'),
      type: 'SourcePaused',
      data: { admission, pausedAt, offer: offerReceipt(secret, transfer, bytes) },
    })
    if ((await decided).type !== 'Committed') throw new CopyFailed({ type: 'VerdictGiven' })
    isTaken = true
  }
  return { postCopy: { afterMs, isLogHeard: gate.isLogHeard, offer }, isTaken: () => isTaken }
}

/** Until it stands there nobody knows whether it does: a paused guest can neither go nor stay. */
async function insist(
  log: Log,
  say: MovingHands['say'],
  signal: AbortSignal,
  event: EventOf<'SourcePaused'>,
): Promise<void> {
  for (;;)
    try {
      await log.append(event, { signal })
      return
    } catch (error) {
      if (!(error instanceof LogUnavailable)) throw error
      say.warn(
        { migration: event.migration, err: error },
        'the guest is paused and the log does not answer',
      )
    }
}

/** What became of a guest behind an offer that was taken, by what its hypervisor says of it now. */
async function wentOn(
  command: EventOf<'Perform'>,
  { driver, host, log, voice, clock }: MovingHands,
  secret: Uint8Array,
  signal: AbortSignal,
): Promise<Fact> {
  const { vm, data } = command
  const { admission, transfer } = data
  if (driver.goOn === undefined) throw new Error('the driver made an offer that it cannot keep')
  const paused = await said(log, facts(host, vm, 'SourcePaused'), 'SourcePaused', command)
  try {
    const { directBytes, rounds } = await driver.goOn(vm, signal)
    const at = clock.now()
    const pausedAt = paused?.data.pausedAt ?? at
    const receipt = directReceipt(secret, transfer, directBytes)
    const times = { pausedAt, gatePassedAt: pausedAt, sentAt: at, endFrameAt: at }
    return {
      ...voice.about(command, 'Performed'),
      type: 'Performed',
      data: { admission, ...times, rounds, ...receipt, isDirect: true },
    }
  } catch (error) {
    if (!(error instanceof CopyFailed)) throw error
    const { failure } = error
    return {
      ...voice.about(command, 'PerformFailed'),
      type: 'PerformFailed',
      data: { admission, failure },
    }
  }
}

/**
 * Rule 5 once more: the rest of the memory took its time, and until the end frame is out the target cannot commit. When
 * the log fell silent meanwhile, the guest runs on here.
 */
async function lastLook(gate: Gate, vm: string, { driver, say }: MovingHands): Promise<void> {
  try {
    await gate.pass()
  } catch (error) {
    // A verdict that is there already is for those who read which one it is (I4).
    if (error instanceof CopyFailed && error.failure.type === 'LogSilent')
      await driver.resume(vm).catch((cause: unknown) => {
        say.warn({ vm, err: cause }, 'the guest cannot run on before the verdict')
      })
    throw error
  }
}

/**
 * While a guest is paused, this host and the log have better things to do than to tell that it is. What is said then
 * waits until the switchover is over, or takes long.
 */
function quietly(clock: Clock, signal: AbortSignal) {
  const isOver = new AbortController()
  let pending: (() => void) | undefined
  const sayIt = () => {
    pending?.()
    pending = undefined
  }
  return {
    later: (say: () => void) => {
      pending = say
      clock.sleep(QUIET_MS, AbortSignal.any([isOver.signal, signal])).then(sayIt, () => {})
    },
    over: () => {
      isOver.abort()
      sayIt()
    },
  }
}

const QUIET_MS = 80

const roundPassed = (
  command: EventOf<'Perform'>,
  voice: Voice,
  progress: CopyProgress,
): EventOf<'RoundPassed'> => ({
  ...voice.about(command, 'RoundPassed', progress.round),
  type: 'RoundPassed',
  data: { admission: command.data.admission, ...progress },
})

/** For whoever watches now; lost, it is worth nothing. */
function sample(
  command: EventOf<'Perform'>,
  { log, clock, voice, say }: MovingHands,
  progress: CopyProgress,
): void {
  const at = Math.floor(clock.now())
  log
    .append(
      { ...voice.about(command, 'ProgressSampled', at), type: 'ProgressSampled', data: progress },
      { patienceMs: 500 },
    )
    .catch((error: unknown) => say.debug({ err: error }, 'a sample was lost'))
}

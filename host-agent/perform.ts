import type { EventOf } from '@ferry/schemas/event'
import type { CopyProgress } from '@ferry/schemas/policy'
import type { Clock } from '@ferry/events/clock'
import { dialFor, dialUnder } from './dial.ts'
import { CopyFailed } from './driver.ts'
import { openGate } from './gate.ts'
import type { Gate } from './gate.ts'
import { contestedOn } from './hands.ts'
import type { MovingHands } from './hands.ts'
import { roundsWorthTelling } from './rounds.ts'
import { directReceipt } from './transfer/direct.ts'
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

  const gate = openGate(hands.log, clock, contestedOn(target, command))
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
    await lastLook(gate, vm, hands)
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

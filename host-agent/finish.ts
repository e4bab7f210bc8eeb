import type { Event, EventOf } from '@ferry/schemas/event'
import { LogUnavailable, contest } from '@ferry/events/log'
import { commands, facts } from '@ferry/events/subjects'
import { isFactName } from '@ferry/events/phases'
import type { FactName } from '@ferry/events/phases'
import { verdictOn } from '@ferry/events/verdict'
import type { Failure } from '@ferry/schemas/refusal'
import { CopyFailed, NeverStarted } from './driver.ts'
import type { ReceiveOrder, RestOrder } from './driver.ts'
import { attemptOf, cleared, contestedOn, endFenced, said } from './hands.ts'
import type { MovingHands } from './hands.ts'
import { directReceipt, offerReceipt } from './transfer/direct.ts'
import type { Receipt } from './transfer/frames.ts'
import { openArrival } from './transfer/arrival.ts'
import type { Arrival } from './transfer/arrival.ts'
import type { Fact } from './voice.ts'

/** "When all of it is here, take the verdict and run." */
export async function finish(
  command: EventOf<'Finish'>,
  hands: MovingHands,
  signal: AbortSignal,
): Promise<Fact | undefined> {
  const { host, driver, voice, log, clock } = hands
  const { vm } = command
  const { admission, transfer } = command.data
  const contested = contestedOn(host, command)
  const fail = (failure: CopyFailed['failure']): Fact => ({
    ...voice.about(command, 'ReceiveFailed'),
    type: 'ReceiveFailed',
    data: { admission, failure },
  })

  const before = await verdictOn(log, contested)
  if (before?.type === 'Cancelled') return cleared(command, hands)
  if (before?.type === 'Committed')
    return (await endFenced(command, hands)) ?? takeOver(command, hands, signal)
  const expected = await awaited(command, hands)
  if (expected === undefined) return fail({ type: 'TransferUnknown', transfer })
  if (expected === 'sealed') return fail({ type: 'KeySealed', host })

  let loaded: Loaded
  try {
    loaded = await load(command, hands, expected, signal)
  } catch (error) {
    signal.throwIfAborted()
    if (error instanceof CopyFailed) return fail(error.failure)
    throw error
  } finally {
    expected.arrival.close()
  }
  // I3, I4: the first valid message is the verdict, and it was read back before anything is started on it.
  const began = clock.elapsed()
  const { isOffer, ...receipt } = loaded
  const hasWon = await commit(committed(command, hands, receipt), hands, signal)
  if (!hasWon) return cleared(command, hands)
  const committedAt = clock.now()
  // A verdict takes milliseconds. While it took long, this host may have been given up for lost.
  const fenced = clock.elapsed() - began > LATE_MS ? await endFenced(command, hands) : undefined
  if (fenced !== undefined) return fenced
  const withdrawn = isOffer === true ? await withdrawnBy(command, hands, signal) : undefined
  if (withdrawn !== undefined) return neverRan(command, hands, withdrawn)
  try {
    const running = await driver.activate(vm, restOrder(command, hands, signal))
    await voice.caughtUp()
    return {
      ...voice.about(command, 'TargetRunning'),
      type: 'TargetRunning',
      data: { admission, committedAt, ...running },
    }
  } catch (error) {
    // Rule 6: this process has received the image and knows that nobody started it. Nor will anybody: the copy ends first,
    // or the next agent could start it while this word is still on its way.
    if (!(error instanceof NeverStarted)) throw error
    return neverRan(command, hands, error.failure)
  }
}

async function neverRan(
  command: EventOf<'Finish'>,
  { driver, voice }: MovingHands,
  failure: Failure,
): Promise<Fact> {
  await driver.clear(command.vm)
  return {
    ...voice.about(command, 'TargetNeverRan'),
    type: 'TargetNeverRan',
    data: { admission: command.data.admission, failure },
  }
}

const restOrder = (
  command: EventOf<'Finish'>,
  { voice, clock }: MovingHands,
  signal: AbortSignal,
): RestOrder => ({
  signal,
  fetching: (news) =>
    voice.mention({
      ...voice.about(command, 'TargetFetching', Math.floor(clock.now())),
      type: 'TargetFetching',
      data: { admission: command.data.admission, ...news },
    }),
})

const LATE_MS = 1000

/**
 * Takes part in the contest for the verdict until it is decided: giving up would not let the guest run anywhere. The
 * signal, which a command to cancel gives, ends it as well.
 */
async function commit(
  event: EventOf<'Committed'>,
  { log, say }: MovingHands,
  signal: AbortSignal,
): Promise<boolean> {
  for (;;) {
    try {
      return (await contest(log, event, { signal })).won
    } catch (error) {
      if (!(error instanceof LogUnavailable)) throw error
      say.warn(
        { migration: event.migration, err: error },
        'the guest is paused and the log does not answer',
      )
    }
  }
}

type Expected = { readonly arrival: Arrival; readonly secret: Uint8Array }

/**
 * The transfer that this host opened for the attempt. Its key stands in the log, sealed between the two hosts' keys, so
 * that whoever carries out this command can open it: the agent that prepared, or one that knows nothing but the log and
 * the host's key. `sealed`: this host has another key by now.
 */
async function awaited(
  command: EventOf<'Finish'>,
  { host, log, key, port, wire, clock }: MovingHands,
): Promise<Expected | 'sealed' | undefined> {
  const { vm, data } = command
  const { transfer } = data
  const [prepare, prepared] = await Promise.all([
    said(log, commands(host, vm, 'Prepare'), 'Prepare', command),
    said(log, facts(host, vm, 'TargetPrepared'), 'TargetPrepared', command),
  ])
  if (prepare === undefined || prepared?.data.transfer !== transfer) return undefined
  const { sealedKey, transferVersion: version, expiresAt } = prepared.data
  const secret = key.open(sealedKey, prepare.data.sourceKey)
  if (secret === undefined) return 'sealed'

  port.expect(transfer, attemptOf(command), expiresAt)
  const used = () => port.used(transfer)
  const ticket = { transfer, version, key: secret, expiresAt }
  const arrival = openArrival(ticket, { wire, clock, used, refused: port.refused })
  port.receive(transfer, arrival.visit)
  return { arrival, secret }
}

type Came = Receipt & { readonly endFrameAt?: number; readonly isOffer?: true }
type Loaded = Came & { readonly loadedAt: number }

async function load(
  command: EventOf<'Finish'>,
  hands: MovingHands,
  { arrival, secret }: Expected,
  signal: AbortSignal,
): Promise<Loaded> {
  const { driver, clock } = hands
  const over = new AbortController()
  let receipt: Came | undefined
  const order: ReceiveOrder = {
    signal,
    fill: async (hypervisor) => {
      const { hasEndFrame, ...came } = await arrival.receive(hypervisor, signal, (all) =>
        isSaidWhole(command, hands, all, signal),
      )
      receipt = hasEndFrame ? { ...came, endFrameAt: clock.now() } : came
    },
    told: async () => {
      // Nobody brings it, so nobody is waited for at this host's port.
      hands.port.used(command.data.transfer)
      const until = AbortSignal.any([signal, over.signal])
      receipt = await toldDirectly(command, hands, secret, until)
    },
  }
  try {
    const { loadedAt } = await driver.receive(command.vm, order)
    if (receipt === undefined)
      throw new Error('the driver says that it loaded an image which never came')
    return { ...receipt, loadedAt }
  } finally {
    over.abort()
  }
}

/** How long the source's answer may take to stand in the log, once its stream has ended without an end frame. */
const SAID_MS = 1000
const ASK_AGAIN_MS = 50

/**
 * The stream ended without its end frame. The source's Performed says the same (rule 2): that this was all, and what it
 * was. A copy that is finished is not thrown away because the last few bytes got lost.
 */
async function isSaidWhole(
  command: EventOf<'Finish'>,
  { log, clock }: MovingHands,
  { bytes, digest }: Receipt,
  signal: AbortSignal,
): Promise<boolean> {
  const { source } = command.data
  const about = <Name extends 'Performed' | 'PerformFailed'>(name: Name) =>
    said(log, facts(source, command.vm, name), name, command, { patienceMs: SAID_MS, signal })
  const began = clock.elapsed()
  do {
    const [performed, failed] = await Promise.all([about('Performed'), about('PerformFailed')])
    if (performed !== undefined)
      return performed.data.bytes === bytes && performed.data.digest === digest
    if (failed !== undefined) return false
    await clock.sleep(ASK_AGAIN_MS, signal)
  } while (clock.elapsed() - began < SAID_MS)
  return false
}

/**
 * Of an image that the hypervisors moved by themselves only the source's Performed says that it was all (rule 2), or its
 * offer that it need not be. The wait ends with the copy: by it, or by the signal.
 */
async function toldDirectly(
  command: EventOf<'Finish'>,
  { log }: MovingHands,
  secret: Uint8Array,
  signal: AbortSignal,
): Promise<Came> {
  const { transfer } = command.data
  for await (const event of saidAtSource(command, log, signal)) {
    const isOffer = event.type === 'SourcePaused'
    const receipt = isOffer ? event.data.offer : event.type === 'Performed' ? event.data : undefined
    if (receipt === undefined) continue
    const { bytes, digest: found } = receipt
    const expectedOf = isOffer ? offerReceipt : directReceipt
    const { digest: expected } = expectedOf(secret, transfer, bytes)
    if (found !== expected) throw new CopyFailed({ type: 'DigestMismatch', expected, found })
    return { bytes, digest: found, ...(isOffer ? { isOffer } : {}) }
  }
  signal.throwIfAborted()
  throw new Error('the log was followed to an end that it does not have')
}

/**
 * Behind an offer that was taken nothing is started before the source says that its guest cannot run there any more:
 * until then its hypervisor may break off by itself and let it run on.
 *
 * @returns why, when that is what happened.
 */
async function withdrawnBy(
  command: EventOf<'Finish'>,
  { log }: MovingHands,
  signal: AbortSignal,
): Promise<Failure | undefined> {
  for await (const event of saidAtSource(command, log, signal)) {
    if (event.type === 'Performed') return undefined
    if (event.type === 'PerformFailed') return event.data.failure
  }
  signal.throwIfAborted()
  throw new Error('the log was followed to an end that it does not have')
}

/** What its source says of this attempt, from the beginning on. */
async function* saidAtSource(
  { migration, attempt, vm, data }: EventOf<'Finish'>,
  log: MovingHands['log'],
  signal: AbortSignal,
): AsyncGenerator<EventOf<FactName>, void, undefined> {
  const { source, admission } = data
  const subject = facts(source, vm, '*')
  for await (const { message } of log.follow({ after: admission, subject, signal })) {
    if (message.is !== 'event' || !('migration' in message.event)) continue
    const { event } = message
    if (event.migration === migration && event.attempt === attempt && isFact(event)) yield event
  }
}

const isFact = (event: Event): event is EventOf<FactName> => isFactName(event.type)

const committed = (
  command: EventOf<'Finish'>,
  { host, voice }: MovingHands,
  whole: Omit<Loaded, 'isOffer'>,
): EventOf<'Committed'> => ({
  ...voice.about(command, 'Committed'),
  type: 'Committed',
  data: { after: 0, target: host, ...whole },
})

/**
 * Committed, and then the agent died: the next one starts the guest, or finds that it runs. If it is gone, nobody here
 * knows whether it ever ran (rule 6): that is an error, asked again until the coordinator calls it a doubt.
 */
async function takeOver(
  command: EventOf<'Finish'>,
  hands: MovingHands,
  signal: AbortSignal,
): Promise<Fact> {
  const { driver, voice, log } = hands
  const { admission, source } = command.data
  const paused = await said(log, facts(source, command.vm, 'SourcePaused'), 'SourcePaused', command)
  // Nobody starts what was withdrawn: not the process before this one either.
  const withdrawn =
    paused?.data.offer === undefined ? undefined : await withdrawnBy(command, hands, signal)
  if (withdrawn !== undefined) return neverRan(command, hands, withdrawn)
  const running = await driver.activate(command.vm, restOrder(command, hands, signal))
  await voice.caughtUp()
  return {
    ...voice.about(command, 'TargetRunning'),
    type: 'TargetRunning',
    data: { admission, ...running },
  }
}

import type { Event, EventOf } from '@ferry/schemas/event'
import type { CopyProgress } from '@ferry/schemas/policy'
import { LogUnavailable, contest } from '@ferry/events/log'
import type { Log } from '@ferry/events/log'
import type { CommandName, FactName } from '@ferry/events/phases'
import { commands, facts } from '@ferry/events/subjects'
import { verdictOn } from '@ferry/events/verdict'
import type { Contested } from '@ferry/events/verdict'
import type { Clock } from '@ferry/events/clock'
import type { Say } from '@ferry/events/say'
import { CopyFailed, NeverStarted } from './driver.ts'
import type { Driver } from './driver.ts'
import { openGate } from './gate.ts'
import type { HostKey } from './keys.ts'
import { roundsWorthTelling } from './rounds.ts'
import { endStale, isFenced, staleCopy } from './stale.ts'
import { TRANSFER_VERSION } from './transfer/frames.ts'
import type { Receipt } from './transfer/frames.ts'
import type { Pace } from './transfer/pace.ts'
import { openArrival } from './transfer/arrival.ts'
import type { Arrival } from './transfer/arrival.ts'
import type { TransferPort } from './transfer/port.ts'
import { openSender } from './transfer/send.ts'
import type { Sender } from './transfer/send.ts'
import type { Wire } from './transfer/wire.ts'
import type { Command, Fact, Voice } from './voice.ts'

/**
 * What each command makes this host do, and the fact that answers it. `undefined`: there is nothing to say, because
 * the verdict has made the command void.
 *
 * Each duty can be begun again by an agent that was killed in it. Whatever a duty needs to be allowed, it reads in the
 * log itself: a command is only the reason to look.
 */
export type Hands = {
  readonly host: string
  readonly log: Log
  readonly clock: Clock
  readonly say: Say
  readonly driver: Driver
  readonly wire: Wire
  readonly port: TransferPort
  readonly key: HostKey
  readonly random: (bytes: number) => Uint8Array
  readonly voice: Voice
  /** Resolves when what was acted on would be remembered after a power cut: nothing is answered before. */
  readonly remembered: () => Promise<void>
  /** Shared by all images that leave this host. */
  readonly pace: Pace
}

export function carryOut(
  command: Command,
  hands: Hands,
  signal: AbortSignal,
): Promise<Fact | undefined> {
  switch (command.type) {
    case 'Begin':
      return begin(command, hands)
    case 'Prepare':
      return prepare(command, hands)
    case 'Perform':
      return perform(command, hands, signal)
    case 'Finish':
      return finish(command, hands, signal)
    case 'Confirm':
      return confirm(command, hands)
    case 'Cancel':
      return command.data.role === 'source' ? stay(command, hands) : clear(command, hands)
  }
}

/** A guest that was never moved cannot have been lost, so this one asks nobody. */
async function begin(command: EventOf<'Begin'>, { driver, key, voice }: Hands): Promise<Fact> {
  const { admission, targetKey } = command.data
  const answer = await driver.begin(command.vm)
  if ('refusal' in answer)
    return {
      ...voice.about(command, 'BeginRefused'),
      type: 'BeginRefused',
      data: { admission, ...answer },
    }
  const { needs, definition } = answer
  const sealedDefinition = key.seal(Buffer.from(definition), targetKey)
  return {
    ...voice.about(command, 'MigrationBegun'),
    type: 'MigrationBegun',
    data: { admission, needs, sealedDefinition, transferVersion: TRANSFER_VERSION },
  }
}

/** A transfer that nobody has come for is worth nothing after this. */
const TRANSFER_EXPIRES_MS = 60_000
const ID_BYTES = 16
const KEY_BYTES = 32

async function prepare(command: EventOf<'Prepare'>, hands: Hands): Promise<Fact | undefined> {
  const { host, driver, key, port, random, clock, voice } = hands
  const { admission, sourceKey, sealedDefinition, needs, transferVersion } = command.data
  const refuse = (refusal: EventOf<'PrepareRefused'>['data']['refusal']): Fact => ({
    ...voice.about(command, 'PrepareRefused'),
    type: 'PrepareRefused',
    data: { admission, refusal },
  })
  // A command that was long on its way must not make a guest that nobody will ever ask for.
  if ((await verdictOn(hands.log, contestedOn(host, command))) !== undefined) return undefined

  const opened = key.open(sealedDefinition, sourceKey)
  if (opened === undefined) return refuse({ type: 'DefinitionSealed', host })
  const { vm, migration, attempt } = command
  const definition = Buffer.from(opened).toString('utf8')
  const refusal = await driver.prepare({ vm, needs, definition, migration, attempt })
  if (refusal !== undefined) return refuse(refusal)

  // No negotiation in the stream: the lower of what both can is taken here, on record.
  const version = Math.min(transferVersion, TRANSFER_VERSION)
  const transfer = Buffer.from(random(ID_BYTES)).toString('hex')
  const secret = random(KEY_BYTES)
  const expiresAt = clock.now() + TRANSFER_EXPIRES_MS
  port.expect(transfer, attemptOf(command), expiresAt)
  return {
    ...voice.about(command, 'TargetPrepared'),
    type: 'TargetPrepared',
    data: {
      admission,
      transfer,
      address: port.address,
      sealedKey: key.seal(secret, sourceKey),
      expiresAt,
      transferVersion: version,
    },
  }
}

async function perform(
  command: EventOf<'Perform'>,
  hands: Hands,
  signal: AbortSignal,
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
    transferVersion: version,
    policy,
  } = command.data
  const fail = (failure: CopyFailed['failure']): Fact => ({
    ...voice.about(command, 'PerformFailed'),
    type: 'PerformFailed',
    data: { admission, failure },
  })
  const secret = key.open(sealedKey, targetKey)
  if (secret === undefined) return fail({ type: 'KeySealed', host })

  const gate = openGate(hands.log, clock, contestedOn(target, command))
  const switchover = quietly(clock, signal)
  const worthTelling = roundsWorthTelling(clock)
  let sender: Sender | undefined
  try {
    const sent = await driver.perform(vm, {
      policy,
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
    if (sender === undefined) throw new Error('the driver says that it sent an image, and did not')
    // Rule 2: the hypervisor has said "completed, paused"; only now may the target hear that this was all.
    const receipt = await sender.finish()
    return {
      ...voice.about(command, 'Performed'),
      type: 'Performed',
      data: { admission, ...sent, ...receipt, endFrameAt: clock.now() },
    }
  } catch (error) {
    signal.throwIfAborted()
    if (error instanceof CopyFailed) return fail(error.failure)
    throw error
  } finally {
    sender?.close()
    gate.close()
    switchover.over()
    await voice.caughtUp()
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

/** "When all of it is here, take the verdict and run." */
async function finish(
  command: EventOf<'Finish'>,
  hands: Hands,
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
    return (await endFenced(command, hands)) ?? takeOver(command, hands)
  const arrival = await awaited(command, hands)
  if (arrival === undefined) return fail({ type: 'TransferUnknown', transfer })

  let whole: Loaded
  try {
    whole = await load(command, hands, arrival, signal)
  } catch (error) {
    signal.throwIfAborted()
    if (error instanceof CopyFailed) return fail(error.failure)
    throw error
  } finally {
    arrival.close()
  }
  // I3, I4: the first valid message is the verdict, and it was read back before anything is started on it.
  const began = clock.elapsed()
  const hasWon = await commit(committed(command, hands, whole), hands, signal)
  if (!hasWon) return cleared(command, hands)
  const committedAt = clock.now()
  // A verdict takes milliseconds. While it took long, this host may have been given up for lost.
  const fenced = clock.elapsed() - began > LATE_MS ? await endFenced(command, hands) : undefined
  if (fenced !== undefined) return fenced
  try {
    const { runningAt } = await driver.activate(vm)
    return {
      ...voice.about(command, 'TargetRunning'),
      type: 'TargetRunning',
      data: { admission, committedAt, runningAt },
    }
  } catch (error) {
    // Rule 6: this process has received the image and knows that nobody started it. Nor will anybody: the copy ends first,
    // or the next agent could start it while this word is still on its way.
    if (!(error instanceof NeverStarted)) throw error
    await driver.clear(vm)
    return {
      ...voice.about(command, 'TargetNeverRan'),
      type: 'TargetNeverRan',
      data: { admission, failure: error.failure },
    }
  }
}

const LATE_MS = 1000

/**
 * Takes part in the contest for the verdict until it is decided: giving up would not let the guest run anywhere. The
 * signal, which a command to cancel gives, ends it as well.
 */
async function commit(
  event: EventOf<'Committed'>,
  { log, say }: Hands,
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

/**
 * The transfer that this host opened for the attempt. Its key stands in the log, sealed between the two hosts' keys, so
 * that whoever carries out this command can open it: the agent that prepared, or one that knows nothing but the log.
 */
async function awaited(
  command: EventOf<'Finish'>,
  { host, log, key, port, wire, clock }: Hands,
): Promise<Arrival | undefined> {
  const { vm, data } = command
  const { transfer } = data
  const [prepare, prepared] = await Promise.all([
    said(log, commands(host, vm, 'Prepare'), 'Prepare', command),
    said(log, facts(host, vm, 'TargetPrepared'), 'TargetPrepared', command),
  ])
  if (prepare === undefined || prepared?.data.transfer !== transfer) return undefined
  const { sealedKey, transferVersion: version, expiresAt } = prepared.data
  const secret = key.open(sealedKey, prepare.data.sourceKey)
  if (secret === undefined) return undefined

  port.expect(transfer, attemptOf(command), expiresAt)
  const used = () => port.used(transfer)
  const ticket = { transfer, version, key: secret, expiresAt }
  const arrival = openArrival(ticket, { wire, clock, used, refused: port.refused })
  port.receive(transfer, arrival.visit)
  return arrival
}

/**
 * What was said on a subject about this attempt, for the first time. It stands behind the attempt's slot, and whatever
 * else stands there (strangers' junk, I9) is passed over.
 */
async function said<Name extends CommandName | FactName>(
  log: Log,
  subject: string,
  name: Name,
  { migration, attempt, data }: Command,
): Promise<EventOf<Name> | undefined> {
  for (let seen = data.admission; ;) {
    const entry = await log.next(subject, seen)
    if (entry === undefined) return undefined
    const event = entry.message.is === 'event' ? entry.message.event : undefined
    if (
      event !== undefined &&
      isNamed(event, name) &&
      event.migration === migration &&
      event.attempt === attempt
    )
      return event
    seen = entry.position
  }
}

const isNamed = <Name extends CommandName | FactName>(
  event: Event,
  name: Name,
): event is EventOf<Name> => event.type === name

type Loaded = Receipt & { readonly endFrameAt: number; readonly loadedAt: number }

async function load(
  command: EventOf<'Finish'>,
  { driver, clock }: Hands,
  { receive }: Arrival,
  signal: AbortSignal,
): Promise<Loaded> {
  let receipt: (Receipt & { endFrameAt: number }) | undefined
  const { loadedAt } = await driver.receive(command.vm, {
    signal,
    fill: async (hypervisor) => {
      receipt = { ...(await receive(hypervisor, signal)), endFrameAt: clock.now() }
    },
  })
  if (receipt === undefined)
    throw new Error('the driver says that it loaded an image which never came')
  return { ...receipt, loadedAt }
}

const committed = (
  command: EventOf<'Finish'>,
  { host, voice }: Hands,
  whole: Loaded,
): EventOf<'Committed'> => ({
  ...voice.about(command, 'Committed'),
  type: 'Committed',
  data: { after: 0, target: host, ...whole },
})

/**
 * Committed, and then the agent died: the next one starts the guest, or finds that it runs. If it is gone, nobody here
 * knows whether it ever ran (rule 6): that is an error, asked again until the coordinator calls it a doubt.
 */
async function takeOver(command: EventOf<'Finish'>, { driver, voice }: Hands): Promise<Fact> {
  const { admission } = command.data
  const { runningAt } = await driver.activate(command.vm)
  return {
    ...voice.about(command, 'TargetRunning'),
    type: 'TargetRunning',
    data: { admission, runningAt },
  }
}

/** I2: the source's copy ends only when the target's own word for a running guest stands in the log. */
async function confirm(
  command: EventOf<'Confirm'>,
  { log, driver, voice, say }: Hands,
): Promise<Fact | undefined> {
  const { vm, migration, attempt, data } = command
  const running = facts(data.target, vm, 'TargetRunning')
  if ((await said(log, running, 'TargetRunning', command)) === undefined) {
    say.error(
      { migration, attempt },
      'told to release a guest that does not run on the target: refused',
    )
    return undefined
  }
  await driver.release(vm)
  return {
    ...voice.about(command, 'SourceReleased'),
    type: 'SourceReleased',
    data: { admission: data.admission },
  }
}

/** I4: a paused source resumes only on Cancelled, or on a fence that stands in the log. */
async function stay(command: EventOf<'Cancel'>, hands: Hands): Promise<Fact | undefined> {
  const { driver, voice } = hands
  const { admission } = command.data
  if (!(await isCancelled(command, hands))) return undefined
  const resumed = await driver.resume(command.vm)
  return resumed === undefined
    ? { ...voice.about(command, 'SourceLost'), type: 'SourceLost', data: { admission } }
    : {
        ...voice.about(command, 'SourceResumed'),
        type: 'SourceResumed',
        data: { admission, ...resumed },
      }
}

async function clear(command: EventOf<'Cancel'>, hands: Hands): Promise<Fact | undefined> {
  if (!(await isCancelled(command, hands))) return undefined
  const isBehindFence = command.data.fence !== undefined
  return (isBehindFence ? await endFenced(command, hands) : undefined) ?? cleared(command, hands)
}

/** Behind a fence even a copy that runs is ended. @returns undefined where no fence stands against this attempt. */
async function endFenced(
  command: EventOf<'Cancel' | 'Finish'>,
  hands: Hands,
): Promise<Fact | undefined> {
  const stale = await staleCopy(hands.log, hands.host, command.vm)
  if (stale?.admission !== command.data.admission) return undefined
  hands.port.forget(attemptOf(command))
  return endStale(command.vm, stale, hands)
}

async function cleared(
  command: EventOf<'Cancel' | 'Finish'>,
  { driver, port, voice }: Hands,
): Promise<Fact> {
  port.forget(attemptOf(command))
  await driver.clear(command.vm)
  const { admission } = command.data
  return { ...voice.about(command, 'TargetCleared'), type: 'TargetCleared', data: { admission } }
}

async function isCancelled(command: EventOf<'Cancel'>, { log, say }: Hands): Promise<boolean> {
  const { migration, attempt, vm, data } = command
  const verdict = await verdictOn(log, contestedOn(data.target, command))
  if (verdict?.type === 'Cancelled') return true
  if (data.fence !== undefined && (await isFenced(log, command))) return true
  say.error(
    { vm, migration, attempt, verdict: verdict?.type },
    'told to cancel what is not cancelled: refused',
  )
  return false
}

const contestedOn = (target: string, { migration, attempt }: Command): Contested => ({
  target,
  migration,
  attempt,
})

const attemptOf = ({ migration, attempt }: Command): string => `${migration}.${attempt}`

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
  { log, clock, voice, say }: Hands,
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

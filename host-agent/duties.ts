import type { EventOf } from '@ferry/schemas/event'
import { SEALED_AT_MOST } from '@ferry/schemas/words'
import { agreed, apart, firstVersion, nearest } from '@ferry/schemas/versions'
import type { HostRefusal } from '@ferry/schemas/refusal'
import { facts } from '@ferry/events/subjects'
import { verdictOn } from '@ferry/events/verdict'
import type { Dial } from './dial.ts'
import { attemptOf, cleared, contestedOn, endFenced, said } from './hands.ts'
import type { Hands } from './hands.ts'
import { move } from './move.ts'
import { StaleHere, isFenced, staleCopy } from './stale.ts'
import type { Command, Fact } from './voice.ts'

/**
 * What each command makes this host do, and the fact that answers it. `undefined`: there is nothing to say, because
 * the verdict has made the command void.
 *
 * Each duty can be begun again by an agent that was killed in it. Whatever a duty needs to be allowed, it reads in the
 * log itself: a command is only the reason to look.
 */
export function carryOut(
  command: Command,
  hands: Hands,
  signal: AbortSignal,
  dial?: Dial,
): Promise<Fact | undefined> {
  switch (command.type) {
    case 'Begin':
      return begin(command, hands)
    case 'Prepare':
      return prepare(command, hands)
    case 'Perform':
    case 'Finish':
      return move(command, hands, signal, dial)
    case 'Confirm':
      return confirm(command, hands)
    case 'Cancel':
      return command.data.role === 'source' ? stay(command, hands) : clear(command, hands)
  }
}

/** A guest that was never moved cannot have been lost, so this one asks nobody but whether its copy is stale (I1). */
async function begin(command: EventOf<'Begin'>, hands: Hands): Promise<Fact> {
  const { host, log, driver, key, voice, transferVersions } = hands
  if ((await staleCopy(log, host, command.vm)) !== undefined) throw new StaleHere(command.vm)
  const { admission, targetKey, targetReads = firstVersion, policy } = command.data
  const { copyDisks = false, directConnections, postCopyAfterMs } = policy
  const isPostCopy = postCopyAfterMs !== undefined
  const refuse = (refusal: HostRefusal): Fact => ({
    ...voice.about(command, 'BeginRefused'),
    type: 'BeginRefused',
    data: { admission, refusal },
  })
  const { hypervisor } = driver.hypervisor
  const missing = (capability: string) =>
    refuse({ type: 'CapabilityMissing', capability, hypervisor })
  if (copyDisks && driver.copiesDisks !== true) return missing('copying disks')
  if (directConnections !== undefined && driver.sendsDirectly !== true)
    return missing('sending an image directly')
  if (isPostCopy && driver.copiesAfterwards !== true) return missing('post-copy')
  // A target that does not go down so far says so itself, and another one may.
  const definitionVersion = nearest(driver.definitions ?? firstVersion, targetReads)
  const answer = await driver.begin(command.vm, {
    definitionVersion,
    copyDisks,
    ...(directConnections === undefined ? {} : { directConnections }),
    isPostCopy,
  })
  if ('refusal' in answer) return refuse(answer.refusal)
  const { needs, definition } = answer
  const sealedDefinition = key.seal(Buffer.from(definition), targetKey)
  const tooLong = longer('definition', sealedDefinition)
  if (tooLong !== undefined) return refuse(tooLong)
  return {
    ...voice.about(command, 'MigrationBegun'),
    type: 'MigrationBegun',
    data: {
      admission,
      needs,
      sealedDefinition,
      transferVersion: transferVersions.highest,
      lowestTransferVersion: transferVersions.lowest,
      definitionVersion,
    },
  }
}

/** What no message can hold would be void, and nobody would say why. */
const longer = (path: string, sealed = ''): HostRefusal | undefined =>
  sealed.length <= SEALED_AT_MOST
    ? undefined
    : {
        type: 'DefinitionInvalid',
        path,
        problem: `is too large: ${sealed.length} bytes when it is sealed, and a message holds ${SEALED_AT_MOST}`,
      }

/** A transfer that nobody has come for is worth nothing after this. */
const TRANSFER_EXPIRES_MS = 60_000
const ID_BYTES = 16
const KEY_BYTES = 32

async function prepare(command: EventOf<'Prepare'>, hands: Hands): Promise<Fact | undefined> {
  const { host, driver, key, port, random, clock, voice } = hands
  const { admission, sourceKey, sealedDefinition, needs } = command.data
  const refuse = (refusal: HostRefusal): Fact => ({
    ...voice.about(command, 'PrepareRefused'),
    type: 'PrepareRefused',
    data: { admission, refusal },
  })
  // A command that was long on its way must not make a guest that nobody will ever ask for.
  if ((await verdictOn(hands.log, contestedOn(host, command))) !== undefined) return undefined

  // No negotiation in the stream: the lower of what both can is taken here, on record.
  const version = agreedWith(command, hands)
  if ('type' in version) return refuse(version)
  const opened = key.open(sealedDefinition, sourceKey)
  if (opened === undefined) return refuse({ type: 'DefinitionSealed', host })
  const { vm, migration, attempt } = command
  const definition = Buffer.from(opened).toString('utf8')
  const { definitionVersion } = version
  const landing = { vm, needs, definition, definitionVersion, migration, attempt }
  const preparing = driver.prepare(landing)
  // To make a guest takes long: meanwhile there is time for this.
  const transfer = Buffer.from(random(ID_BYTES)).toString('hex')
  const sealedKey = key.seal(random(KEY_BYTES), sourceKey)
  const answer = await preparing
  if (answer !== undefined && 'type' in answer) return refuse(answer)
  const sealedCookie =
    answer === undefined ? undefined : key.seal(Buffer.from(answer.cookie), sourceKey)
  const tooLong = longer('cookie', sealedCookie)
  if (tooLong !== undefined) {
    await driver.clear(vm)
    return refuse(tooLong)
  }

  const expiresAt = clock.now() + TRANSFER_EXPIRES_MS
  port.expect(transfer, attemptOf(command), expiresAt)
  return {
    ...voice.about(command, 'TargetPrepared'),
    type: 'TargetPrepared',
    data: {
      admission,
      transfer,
      address: port.address,
      sealedKey,
      ...(sealedCookie === undefined ? {} : { sealedCookie }),
      expiresAt,
      ...version,
    },
  }
}

type Agreed = { readonly transferVersion: number; readonly definitionVersion: number }

/** What an agent that says nothing of versions speaks is the first of each. */
function agreedWith(
  { data }: EventOf<'Prepare'>,
  { driver, transferVersions }: Hands,
): Agreed | HostRefusal {
  const {
    transferVersion: highest,
    lowestTransferVersion: lowest = 1,
    definitionVersion = 1,
  } = data
  const transferVersion = agreed({ lowest, highest }, transferVersions)
  if (transferVersion === undefined)
    return { type: 'TransferVersionUnsupported', ...apart({ lowest, highest }, transferVersions) }
  const written = { lowest: definitionVersion, highest: definitionVersion }
  const read = driver.definitions ?? firstVersion
  return agreed(written, read) === undefined
    ? { type: 'DefinitionVersionUnsupported', ...apart(written, read) }
    : { transferVersion, definitionVersion }
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

/** Behind a fence even a copy of an attempt that is long over: until its host says so, the guest cannot come back here. */
async function clear(command: EventOf<'Cancel'>, hands: Hands): Promise<Fact | undefined> {
  const stale = command.data.fence === undefined ? undefined : await endFenced(command, hands)
  if (stale !== undefined) return stale
  return (await isCancelled(command, hands)) ? cleared(command, hands) : undefined
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

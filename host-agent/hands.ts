import type { Event, EventOf } from '@ferry/schemas/event'
import type { Versions } from '@ferry/schemas/versions'
import type { Clock } from '@ferry/events/clock'
import type { Log, Patience } from '@ferry/events/log'
import type { CommandName, FactName } from '@ferry/events/phases'
import type { Say } from '@ferry/events/say'
import type { Contested } from '@ferry/events/verdict'
import type { Driver, Moves } from './driver.ts'
import type { HostKey } from './keys.ts'
import { endStale, staleCopy } from './stale.ts'
import type { Pace } from './transfer/pace.ts'
import type { Doorkeeper, TransferPort } from './transfer/port.ts'
import type { Wire } from './transfer/wire.ts'
import type { Command, Fact, Voice } from './voice.ts'

/** What a host does its duties with: those that move an image, which may be done by a process of their own, need less. */
export type Hands = MovingHands & {
  readonly driver: Driver
  readonly port: TransferPort
  readonly random: (bytes: number) => Uint8Array
  /** Of the stream between agents: what this one sends and takes. */
  readonly transferVersions: Versions
}

export type MovingHands = {
  readonly host: string
  readonly log: Log
  readonly clock: Clock
  readonly say: Say
  readonly driver: Moves
  readonly wire: Wire
  readonly port: Doorkeeper
  readonly key: HostKey
  readonly voice: Voice
  /** Resolves when what was acted on would be remembered after a power cut: nothing is answered before. */
  readonly remembered: () => Promise<void>
  /** Shared by all images that leave this host. */
  readonly pace: Pace
}

/**
 * What was said on a subject about this attempt, for the first time. It stands behind the attempt's slot, and whatever
 * else stands there (strangers' junk, I9) is passed over.
 */
export async function said<Name extends CommandName | FactName>(
  log: Log,
  subject: string,
  name: Name,
  { migration, attempt, data }: Command,
  patience: Patience = {},
): Promise<EventOf<Name> | undefined> {
  for (let seen = data.admission; ;) {
    const entry = await log.next(subject, seen, patience)
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

/** Behind a fence even a copy that runs is ended. @returns undefined where no fence stands against this attempt. */
export async function endFenced(
  command: EventOf<'Cancel' | 'Finish'>,
  hands: MovingHands,
): Promise<Fact | undefined> {
  const stale = await staleCopy(hands.log, hands.host, command.vm)
  if (stale?.admission !== command.data.admission) return undefined
  hands.port.forget(attemptOf(command))
  return endStale(command.vm, stale, hands)
}

export async function cleared(
  command: EventOf<'Cancel' | 'Finish'>,
  { driver, port, voice }: MovingHands,
): Promise<Fact> {
  port.forget(attemptOf(command))
  await driver.clear(command.vm)
  const { admission } = command.data
  return { ...voice.about(command, 'TargetCleared'), type: 'TargetCleared', data: { admission } }
}

export const contestedOn = (target: string, { migration, attempt }: Command): Contested => ({
  target,
  migration,
  attempt,
})

export const attemptOf = ({ migration, attempt }: Command): string => `${migration}.${attempt}`

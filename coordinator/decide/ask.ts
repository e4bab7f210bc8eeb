import type { EventOf } from '@ferry/schemas/event'
import { timestamp } from '@ferry/events/clock'
import type { Fleet } from '@ferry/events/fleet'
import type { Guest } from '@ferry/events/guest'
import { askKey, hostOf } from '@ferry/events/migration'
import type { Migration, Said } from '@ferry/events/migration'
import { phases } from '@ferry/events/phases'
import type { Ask, CommandName, FactName } from '@ferry/events/phases'
import { aboutMigration } from './envelope.ts'
import { patienceMs } from './patience.ts'
import type { Step } from './step.ts'
import { rest, soonest } from './step.ts'
import type { World } from './world.ts'

/** What is asked in this phase and not answered: now, or again when patience has run out. */
export function ask(fleet: Fleet, migration: Migration, world: World): Step {
  return soonest(
    unanswered(migration).map((wanted): Step => {
      const before = migration.attempt.asked[askKey(wanted)]
      const dueAt =
        before === undefined || isOutOfDate(migration, wanted, before.position)
          ? world.now
          : before.storedAt + patienceMs(wanted.command, before.times)
      if (dueAt > world.now) return { command: [], lookAgainAt: dueAt }
      const command = commandFor(fleet, migration, wanted, (before?.times ?? 0) + 1, world)
      return command === undefined ? rest : { command: [command] }
    }),
  )
}

/** Asked for with limits that have been changed since. Whoever is at it goes on with the new ones. */
const isOutOfDate = ({ limitsSet }: Migration, { command }: Ask, askedAt: number): boolean =>
  command === 'Perform' && limitsSet !== undefined && askedAt < limitsSet.position

export function unanswered(migration: Migration): Ask[] {
  const { phase, attempt } = migration
  return phases[phase].asks.filter(
    ({ command, of, answers }) =>
      !answers.some((answer) => attempt.facts[answer] !== undefined) &&
      // A target that was never asked to prepare has nothing to clear.
      !(command === 'Cancel' && of === 'target' && attempt.asked['Prepare.target'] === undefined),
  )
}

/**
 * What one host said for the other is handed on as it stands, with whatever a newer release has put into it.
 *
 * @returns undefined while a host that must be named has not reported itself: the log will tell when it has.
 */
function commandFor(
  fleet: Fleet,
  migration: Migration,
  { command, of }: Ask,
  times: number,
  world: World,
): EventOf<CommandName> | undefined {
  const { id, source, attempt, policy, phase } = migration
  const { slot, facts, fence } = attempt
  const host = hostOf(migration, of)
  if (slot === undefined || host === undefined) return undefined
  const { target, admission } = slot
  const keyOf = (name: string) => fleet.hosts.get(name)?.report.key
  const causationid = causeOf(migration)
  const envelope = {
    ...aboutMigration(migration, world),
    id: `${id}.${attempt.number}.${phase}.${command}.${of}.${times}`,
    ...(causationid === undefined ? {} : { causationid }),
  }
  const to = { host, admission }

  switch (command) {
    case 'Begin': {
      const targetKey = keyOf(target)
      if (targetKey === undefined) return undefined
      const targetReads = fleet.hosts.get(target)?.report.definitionVersions
      return {
        ...envelope,
        type: command,
        data: {
          ...to,
          target,
          targetKey,
          ...(targetReads === undefined ? {} : { targetReads }),
          policy,
        },
      }
    }
    case 'Prepare': {
      const { admission: _, ...begun } = said(facts.MigrationBegun, 'MigrationBegun')
      const sourceKey = keyOf(source)
      if (sourceKey === undefined) return undefined
      return {
        ...envelope,
        type: command,
        data: { ...begun, ...to, source, sourceKey },
      }
    }
    case 'Perform': {
      const {
        admission: _,
        expiresAt: _until,
        ...prepared
      } = said(facts.TargetPrepared, 'TargetPrepared')
      const targetKey = keyOf(target)
      if (targetKey === undefined) return undefined
      return {
        ...envelope,
        type: command,
        data: { ...prepared, ...to, target, targetKey, policy },
      }
    }
    case 'Finish': {
      const { transfer } = said(facts.TargetPrepared, 'TargetPrepared')
      return { ...envelope, type: command, data: { ...to, source, transfer } }
    }
    case 'Confirm':
      return { ...envelope, type: command, data: { ...to, target } }
    case 'Cancel':
      return {
        ...envelope,
        type: command,
        data: {
          ...to,
          role: of,
          target,
          ...(fence === undefined ? {} : { fence: fence.position }),
        },
      }
  }
}

/** What the phase was entered by: the answer that made the coordinator ask. */
function causeOf({ attempt, phase }: Migration): string | undefined {
  const { facts, verdict, fence } = attempt
  if (phase === 'preparing') return facts.MigrationBegun?.id
  if (phase === 'performing') return facts.TargetPrepared?.id
  if (phase === 'confirming') return facts.TargetRunning?.id
  return phase === 'cancelling' ? (fence?.id ?? verdict?.id) : undefined
}

export function askToStart(guest: Guest, start: NonNullable<Guest['start']>, world: World): Step {
  const { id, host, asked: times, askedAt } = start
  const dueAt = times === 0 ? world.now : askedAt + patienceMs('Start', times)
  if (dueAt > world.now) return { command: [], lookAgainAt: dueAt }
  const command: EventOf<'Start'> = {
    type: 'Start',
    id: `${id}.Start.${times + 1}`,
    writer: world.me,
    time: timestamp(world.now),
    vm: guest.vm,
    data: { host, start: id },
  }
  return { command: [command] }
}

/** What the phase table says is known by now. */
function said<Name extends FactName>(fact: Said<Name> | undefined, name: Name): Said<Name>['data'] {
  if (fact === undefined)
    throw new Error(`${name} is not in the log, though the phase says that it is`)
  return fact.data
}

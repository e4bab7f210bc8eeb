import { timestamp } from '@ferry/events/clock'
import type { Guest } from '@ferry/events/guest'
import type { Migration } from '@ferry/events/migration'
import type { World } from './world.ts'

/** What stands around everything that a coordinator says about a migration. */
export const aboutMigration = (migration: Migration, world: World) => ({
  writer: world.me,
  time: timestamp(world.now),
  vm: migration.vm,
  migration: migration.id,
  attempt: migration.attempt.number,
  ...(migration.traceparent === undefined ? {} : { traceparent: migration.traceparent }),
})

/** What stands around a decision. The head is in the id: one that came too late is written again with another id. */
export const decisionOn = (guest: Guest, migration: Migration, name: string, world: World) => ({
  ...aboutMigration(migration, world),
  id: `${migration.id}.${migration.attempt.number}.${name}@${guest.head}`,
})

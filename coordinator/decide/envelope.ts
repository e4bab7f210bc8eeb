import { timestamp } from '@ferry/events/clock'
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

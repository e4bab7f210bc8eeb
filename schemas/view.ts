import { Type } from 'typebox'
import type { Static } from 'typebox'
import { GuestNeeds, GuestState } from './guest.ts'
import { Policy } from './policy.ts'
import { Cause, HostRefusal } from './refusal.ts'
import { Bytes, Id, Moment, Name, Position, Text } from './words.ts'

/** What a coordinator shows of its fold: each view names the position that it is true for. */

export const MigrationView = Type.Object({
  migration: Id,
  vm: Name,
  source: Name,
  target: Type.Optional(Name),
  phase: Text,
  meaning: Text,
  attempt: Type.Integer({ minimum: 1 }),
  policy: Policy,
  by: Text,
  requestedAt: Moment,
  phaseSince: Moment,
  /** The verdict of the present attempt, once there is one. */
  verdict: Type.Optional(Type.Object({ type: Text, position: Position })),
  cancelAskedBy: Type.Optional(Text),
  /** Why it waits in the queue, or what must be answered when it is in doubt. */
  waitsFor: Type.Optional(Text),
  /** Why it was abandoned. */
  cause: Type.Optional(Cause),
  sentence: Type.Optional(Text),
  openDuties: Type.Array(Type.Object({ host: Name, command: Text })),
})
export type MigrationView = Static<typeof MigrationView>

export const StatusView = Type.Object({ position: Position, migration: MigrationView })
export type StatusView = Static<typeof StatusView>

export const FleetView = Type.Object({
  position: Position,
  leader: Type.Optional(Text),
  hosts: Type.Array(
    Type.Object({
      host: Name,
      isAlive: Type.Boolean(),
      hypervisor: Text,
      memoryBytes: Bytes,
      usedBytes: Bytes,
      address: Text,
      agentVersion: Text,
    }),
  ),
  guests: Type.Array(
    Type.Object({
      vm: Name,
      copies: Type.Array(
        Type.Object({
          host: Name,
          state: GuestState,
          needs: GuestNeeds,
          /** Why it cannot leave this host as things are. */
          unmovable: Type.Optional(HostRefusal),
          sentence: Type.Optional(Text),
        }),
      ),
      startingOn: Type.Optional(Name),
      /** True where more than one host reports it running (I1). */
      isAlarming: Type.Boolean(),
      migration: Type.Optional(MigrationView),
    }),
  ),
})
export type FleetView = Static<typeof FleetView>

import { Type } from 'typebox'
import type { Static } from 'typebox'
import { Limits, Policy } from './policy.ts'
import { RequestRefusal } from './refusal.ts'
import { Id, Name, Position, Text, Who } from './words.ts'

/**
 * What may be asked of a coordinator, over NATS request/reply at `ferry.api.<verb>`. An unknown field is refused:
 * a misspelt option must not be silently ignored. The request's id becomes the migration's id, so asking twice
 * with the same id is asking once.
 */

const strict = { additionalProperties: false }

export const MigrateRequest = Type.Object(
  {
    request: Id,
    vm: Name,
    target: Type.Optional(Name),
    policy: Type.Optional(Type.Partial(Policy, strict)),
    by: Who,
    traceparent: Type.Optional(Type.String()),
  },
  strict,
)
export type MigrateRequest = Static<typeof MigrateRequest>

export const CancelRequest = Type.Object({ migration: Id, by: Who }, strict)
export type CancelRequest = Static<typeof CancelRequest>

/** Changes what a migration keeps to, while it is on its way. At least one limit is given. */
export const LimitRequest = Type.Object(
  { migration: Id, by: Who, ...Limits.properties },
  { ...strict, minProperties: 3 },
)
export type LimitRequest = Static<typeof LimitRequest>

/** Answers the question of a migration that is in doubt: the host was fenced, so its copy cannot run. */
export const ResolveRequest = Type.Object(
  {
    migration: Id,
    fenced: Name,
    by: Who,
    /** How it is known. */
    evidence: Type.Optional(Text),
    /** Record it although the host's agent is heard: only who knows that the guest cannot run there may say so. */
    insist: Type.Optional(Type.Boolean()),
  },
  strict,
)
export type ResolveRequest = Static<typeof ResolveRequest>

export const StartRequest = Type.Object({ request: Id, vm: Name, host: Name, by: Who }, strict)
export type StartRequest = Static<typeof StartRequest>

export const StatusRequest = Type.Object({ migration: Id }, strict)
export type StatusRequest = Static<typeof StatusRequest>

export const FleetRequest = Type.Object({}, strict)
export type FleetRequest = Static<typeof FleetRequest>

/** Answers alarms about a log that lost its tail. `guests` says where each belongs that the inventories leave open. */
export const RecoverRequest = Type.Object(
  {
    by: Who,
    evidence: Type.Optional(Text),
    without: Type.Array(Name),
    guests: Type.Array(Type.Object({ vm: Name, host: Type.Optional(Name) }, strict)),
  },
  strict,
)
export type RecoverRequest = Static<typeof RecoverRequest>

/** What a view answers that cannot be shown. */
export const Refused = Type.Object({ accepted: Type.Literal(false), sentence: Type.String() })

/** What every request about a decision answers: what was recorded and where, or why not. */
export const Answer = Type.Union([
  Type.Object({ accepted: Type.Literal(true), id: Id, position: Position }),
  Type.Object({ accepted: Type.Literal(false), refusal: RequestRefusal, sentence: Text }),
])
export type Answer = Static<typeof Answer>

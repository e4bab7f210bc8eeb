import { Type } from 'typebox'
import type { Static, TObject, TProperties } from 'typebox'
import { GuestState } from './guest.ts'
import { Bytes, Id, Milliseconds, Name, Position, Text } from './words.ts'

/** Every expected "no", as data. The sentences are in `events/sentences.ts`, and nowhere else. */

const reason = <const Word extends string, Fields extends TProperties>(
  type: Word,
  fields: Fields,
): TObject<{ type: ReturnType<typeof Type.Literal<Word>> } & Fields> =>
  Type.Object({ type: Type.Literal(type), ...fields })

/** What a newer release gave as a reason: `reasons.ts` puts it here, and nobody says it himself. */
const unknownReason = reason('UnknownReason', { reason: Text })

/** Why a host cannot take a guest: said by the coordinator when it chooses, by the target when it prepares. */
export const Unfit = Type.Union([
  reason('NotEnoughMemory', { neededBytes: Bytes, freeBytes: Bytes }),
  reason('OtherHypervisor', { needed: Text, found: Text }),
  reason('MachineUnsupported', { machine: Text }),
  reason('CpuUnsupported', { cpu: Text }),
  reason('AcceleratorUnsupported', { accelerator: Text }),
  reason('HostSilent', { host: Name }),
  reason('GuestAlreadyHere', { vm: Name, state: GuestState }),
  reason('StaleCopy', { vm: Name }),
])
export type Unfit = Static<typeof Unfit>

/** What a host says when it will not begin, prepare or start. Nothing has moved then. */
export const HostRefusal = Type.Union([
  ...Unfit.anyOf,
  reason('GuestGone', { vm: Name }),
  reason('GuestNotRunning', { vm: Name, state: GuestState }),
  reason('StartsByItself', { vm: Name }),
  reason('DiskMissing', { path: Text }),
  reason('DiskMismatch', { path: Text, expected: Text, found: Text }),
  reason('DiskUnmovable', { path: Text, why: Text }),
  reason('DiskInTheWay', { path: Text }),
  reason('NotEnoughStorage', { path: Text, neededBytes: Bytes, freeBytes: Bytes }),
  reason('FileMissing', { path: Text }),
  reason('ToolMissing', { tool: Text }),
  reason('CapabilityMissing', { capability: Text, hypervisor: Text }),
  reason('TransferVersionUnsupported', { offered: Type.Integer(), supported: Type.Integer() }),
  reason('DefinitionVersionUnsupported', { offered: Type.Integer(), supported: Type.Integer() }),
  reason('CommandUnknown', { command: Text }),
  reason('DefinitionSealed', { host: Name }),
  reason('DefinitionInvalid', { path: Text, problem: Text }),
  reason('UnknownDefinition', { vm: Name }),
  reason('HypervisorFailed', { message: Text }),
  unknownReason,
])
export type HostRefusal = Static<typeof HostRefusal>

/** Why a copy did not arrive. The guest runs on at the source, or is paused there and whole. */
export const Failure = Type.Union([
  reason('AgentRestarted', {}),
  reason('LogSilent', { silentForMs: Milliseconds }),
  reason('VerdictGiven', {}),
  reason('ConnectFailed', { address: Text, code: Text }),
  reason('TransferRejected', { transfer: Id, code: Text }),
  reason('TransferExpired', { transfer: Id }),
  reason('TransferUnknown', { transfer: Id }),
  reason('StreamCut', { receivedBytes: Bytes }),
  reason('StreamBroken', { sentBytes: Bytes, code: Text }),
  reason('FrameInvalid', { problem: Text }),
  reason('DigestMismatch', { expected: Text, found: Text }),
  reason('CountMismatch', { expectedBytes: Bytes, foundBytes: Bytes }),
  reason('KeySealed', { host: Name }),
  reason('GuestGone', { vm: Name }),
  reason('HypervisorFailed', {
    message: Text,
    /** Somebody else did that to the guest, behind Ferry's back: then it is left to them. */
    otherHand: Type.Optional(Type.Boolean()),
  }),
  unknownReason,
])
export type Failure = Static<typeof Failure>

/** What the coordinator answers a request that it will not carry out. */
export const RequestRefusal = Type.Union([
  reason('NotUnderstood', { path: Text, problem: Text }),
  reason('UnknownGuest', { vm: Name }),
  reason('GuestNotRunning', { vm: Name, state: GuestState }),
  reason('GuestOnSeveralHosts', { vm: Name, hosts: Type.Array(Name) }),
  reason('AlreadyRunning', { vm: Name, host: Name }),
  reason('AlreadyMigrating', { vm: Name, migration: Id }),
  reason('StartPending', { vm: Name, host: Name }),
  reason('AlreadyThere', { vm: Name, host: Name }),
  reason('UnknownHost', { host: Name }),
  reason('TargetUnfit', { host: Name, unfit: Unfit }),
  reason('NoTarget', {
    vm: Name,
    considered: Type.Array(Type.Object({ host: Name, unfit: Unfit })),
  }),
  reason('RequestIdTaken', { request: Id, vm: Name }),
  reason('UnknownMigration', { migration: Id }),
  reason('TooLateToCancel', { migration: Id, committedAt: Position }),
  reason('TooLateToLimit', { migration: Id, phase: Text }),
  /** A host of an older release could not judge this, and would not go on. */
  reason('HostOlder', { host: Name, agentVersion: Text }),
  reason('AlreadyEnded', { migration: Id, outcome: Text }),
  reason('NothingToFence', { migration: Id, phase: Text }),
  reason('TargetAnswered', { vm: Name, host: Name, answeredAt: Position }),
  reason('NotTheTarget', { migration: Id, host: Name, target: Name }),
  reason('HostAlive', { vm: Name, host: Name }),
  /** Heartbeats could not be heard for long enough to say that there was none. */
  reason('NotSilentYet', { vm: Name, host: Name }),
  reason('LogBehind', { who: Type.Array(Text), position: Position }),
  reason('LogWhole', {}),
  /** Which hosts there are cannot be said before heartbeats were heard for long enough. */
  reason('NotListenedYet', {}),
  /** To be left out of a comparison as hosts that are off, and heard. */
  reason('HostsAlive', { hosts: Type.Array(Name) }),
  reason('HostsSilent', { hosts: Type.Array(Name) }),
  reason('GuestUnclear', {
    vm: Name,
    copies: Type.Array(Type.Object({ host: Name, state: GuestState })),
  }),
  reason('NoWholeCopy', { vm: Name, host: Name }),
  reason('Busy', { what: Text }),
])
export type RequestRefusal = Static<typeof RequestRefusal>

/** Why an attempt was given up: stands in the verdict `Cancelled`, and in the decision that ends a migration. */
export const Cause = Type.Union([
  reason('Asked', { by: Text }),
  reason('TimedOut', { phase: Text, limitMs: Milliseconds }),
  reason('Refused', { host: Name, refusal: HostRefusal }),
  reason('Failed', { host: Name, failure: Failure }),
  reason('Fenced', { host: Name, by: Text }),
  reason('Recovered', { by: Text, position: Position }),
  unknownReason,
])
export type Cause = Static<typeof Cause>

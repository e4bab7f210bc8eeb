import { Type } from 'typebox'
import type { Static, TObject } from 'typebox'
import { GuestNeeds, GuestState } from './guest.ts'
import { GuestReport } from './inventory.ts'
import { CopyProgress, Limits, Policy } from './policy.ts'
import { Cause, Failure, HostRefusal } from './refusal.ts'
import {
  Address,
  Bytes,
  CurveKey,
  Digest,
  Id,
  Milliseconds,
  Moment,
  Name,
  Position,
  Sealed,
  Text,
  Version,
  Who,
} from './words.ts'
import { Versions } from './versions.ts'

/**
 * Every message of the log, as one table: its kind (which says who writes it and on which subject),
 * what it is about (which says what stands in its envelope), its version, and the shape of its data.
 *
 * Decisions are what a coordinator recorded, commands what it asks of a host, facts what a host reports,
 * and the first valid verdict on its subject says who may run the guest.
 */

export type Kind =
  | 'decision'
  | 'admission'
  | 'command'
  | 'fact'
  | 'verdict'
  | 'host'
  | 'coordinator'
  | 'alarm'
  | 'recovery'
  | 'progress'

/** `migration`: one attempt of one migration. `guest`: a guest that is not being moved. `writer`: who says it. */
export type About = 'migration' | 'guest' | 'writer'

type Shape = {
  readonly kind: Kind
  readonly about: About
  readonly version: number
  readonly data: TObject
}

/** The position of the last valid message on the same subject: what makes the order of the log decide. */
const after = { after: Position }

/** The position of `Admitted`: it orders attempts, and a host obeys the highest that it has seen. */
const admission = { admission: Position }

const host = { host: Name }

const transferVersion = { transferVersion: Version }

/** What the source can send: its stream in any version down from `transferVersion`, and the definition as it is. */
const offer = {
  ...transferVersion,
  lowestTransferVersion: Type.Optional(Version),
  definitionVersion: Type.Optional(Version),
}

const openDuties = {
  /** Hosts that have not answered. The verdict binds them; they settle it when they return. */
  openDuties: Type.Array(Type.Object({ host: Name, command: Text })),
}

export const messages = {
  // Decisions: `ferry.decision.<vm>`
  MigrationRequested: {
    kind: 'decision',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...after,
      source: Name,
      /** Absent: the coordinator chooses when there is a slot. */
      target: Type.Optional(Name),
      policy: Policy,
      by: Who,
    }),
  },
  CancelAsked: {
    kind: 'decision',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...after, by: Who }),
  },
  /** From now on the migration keeps to these: the present attempt, and those behind it. A guest that is paused already is sent home sooner or later by it. */
  LimitsSet: {
    kind: 'decision',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...after, ...Limits.properties, by: Who }),
  },
  Retried: {
    kind: 'decision',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...after, cause: Cause, ...openDuties }),
  },
  Fenced: {
    kind: 'decision',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...after, ...host, by: Who, evidence: Text }),
  },
  /** A host was to be turned off, and may be running still: the question stands. */
  FenceFailed: {
    kind: 'decision',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...after, ...host, by: Who, evidence: Text }),
  },
  DoubtRaised: {
    kind: 'decision',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...after, ...host, question: Text }),
  },
  Completed: {
    kind: 'decision',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...after, ...openDuties }),
  },
  Abandoned: {
    kind: 'decision',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...after, cause: Cause, ...openDuties, guestLost: Type.Boolean() }),
  },
  StartOrdered: {
    kind: 'decision',
    about: 'guest',
    version: 1,
    data: Type.Object({ ...after, ...host, start: Id, by: Who }),
  },

  // The ledger of slots: `ferry.admission`
  Admitted: {
    kind: 'admission',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...after, source: Name, target: Name }),
  },

  // Commands: `ferry.command.<host>.<vm>.<command>`
  Begin: {
    kind: 'command',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...host,
      ...admission,
      target: Name,
      targetKey: CurveKey,
      /** The definitions that the target's driver reads. Absent: the first version. */
      targetReads: Type.Optional(Versions),
      policy: Policy,
    }),
  },
  Prepare: {
    kind: 'command',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...host,
      ...admission,
      source: Name,
      sourceKey: CurveKey,
      needs: GuestNeeds,
      sealedDefinition: Sealed,
      ...offer,
    }),
  },
  Perform: {
    kind: 'command',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...host,
      ...admission,
      target: Name,
      targetKey: CurveKey,
      transfer: Id,
      address: Address,
      sealedKey: Sealed,
      sealedCookie: Type.Optional(Sealed),
      ...transferVersion,
      policy: Policy,
    }),
  },
  Finish: {
    kind: 'command',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...host, ...admission, source: Name, transfer: Id }),
  },
  Confirm: {
    kind: 'command',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...host, ...admission, target: Name }),
  },
  Cancel: {
    kind: 'command',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...host,
      ...admission,
      role: Type.Union([Type.Literal('source'), Type.Literal('target')]),
      target: Name,
      /** The position of `Fenced`, where a fence and not the verdict lets the source go on. */
      fence: Type.Optional(Position),
    }),
  },
  Start: {
    kind: 'command',
    about: 'guest',
    version: 1,
    data: Type.Object({ ...host, start: Id }),
  },

  // Facts: `ferry.fact.<host>.<vm>.<fact>`
  MigrationBegun: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...admission,
      needs: GuestNeeds,
      /** The guest's definition, sealed for the target: it may hold secrets. */
      sealedDefinition: Sealed,
      ...offer,
    }),
  },
  BeginRefused: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...admission, refusal: HostRefusal }),
  },
  TargetPrepared: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...admission,
      transfer: Id,
      address: Address,
      /** The transfer's key, sealed for the source. */
      sealedKey: Sealed,
      /** What the target's hypervisor has to say to the source's, sealed as well: it may hold secrets. */
      sealedCookie: Type.Optional(Sealed),
      expiresAt: Moment,
      /** The answer to what the source offered: with these the attempt goes on. */
      ...transferVersion,
      definitionVersion: Type.Optional(Version),
    }),
  },
  PrepareRefused: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...admission, refusal: HostRefusal }),
  },
  RoundPassed: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...admission, ...CopyProgress.properties }),
  },
  SourcePaused: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...admission,
      pausedAt: Moment,
      /**
       * Post-copy: the guest stays paused and whole until the verdict, and the target may commit though it lacks a part of
       * it. What the hypervisor had sent by then, and who says so.
       */
      offer: Type.Optional(Type.Object({ bytes: Bytes, digest: Digest })),
    }),
  },
  Performed: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...admission,
      pausedAt: Moment,
      /** When the gate let the switchover go on: the log had been heard (rule 5). */
      gatePassedAt: Moment,
      /** When the hypervisor said that the whole image was out. */
      sentAt: Moment,
      /** When the end frame was handed to the network; of a direct image, when there was nothing left but to say this. */
      endFrameAt: Moment,
      bytes: Bytes,
      /** Of a direct image, which no agent saw, it proves instead that this is said by whom the transfer was made for. */
      digest: Digest,
      /** No stream of Ferry's carried it: the count is the hypervisor's, and this fact itself is what the target waits for. */
      isDirect: Type.Optional(Type.Boolean()),
      rounds: Type.Integer({ minimum: 0 }),
    }),
  },
  PerformFailed: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...admission, failure: Failure }),
  },
  ReceiveFailed: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...admission, failure: Failure }),
  },
  TargetRunning: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...admission,
      /** When the verdict had been read back. Absent: an agent found it already running after a restart. */
      committedAt: Type.Optional(Moment),
      runningAt: Type.Optional(Moment),
    }),
  },
  /** Post-copy: the guest runs, and the rest of its memory is still coming. A series: the last one is the present. */
  TargetFetching: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...admission,
      /** Absent: an agent found it so after a restart. */
      runningAt: Type.Optional(Moment),
      /** What it lacks does not come any more: it stands still as soon as it needs that. */
      isBroken: Type.Boolean(),
    }),
  },
  /** Said only by the process that knows that it sent no start (rule 6). */
  TargetNeverRan: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...admission, failure: Failure }),
  },
  TargetCleared: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...admission,
      /** What the copy was doing that was ended behind a fence. Absent: there was none, or no fence. */
      found: Type.Optional(GuestState),
    }),
  },
  SourceReleased: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...admission }),
  },
  SourceResumed: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...admission,
      /** False: it had never stopped. */
      wasPaused: Type.Boolean(),
      runningAt: Moment,
      /** Somebody else has paused it, and so it was left; `runningAt` is when that was seen. */
      leftPaused: Type.Optional(Type.Boolean()),
    }),
  },
  /** The source has no copy left to resume: its guest ended by itself. */
  SourceLost: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...admission }),
  },
  /** A command that this host's release does not know, or not in that version: it will not be carried out. */
  CommandUnknown: {
    kind: 'fact',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...host, ...admission, command: Text }),
  },
  GuestStarted: {
    kind: 'fact',
    about: 'guest',
    version: 1,
    data: Type.Object({ start: Id, needs: GuestNeeds }),
  },
  StartRefused: {
    kind: 'fact',
    about: 'guest',
    version: 1,
    data: Type.Object({ start: Id, refusal: HostRefusal }),
  },

  // Verdicts: `ferry.verdict.<target>.<migration>.<attempt>`
  Committed: {
    kind: 'verdict',
    about: 'migration',
    version: 1,
    data: Type.Object({
      ...after,
      target: Name,
      /** The receipt: what arrived, as the target counted it; where the source's Performed stood in for that, as it says. */
      bytes: Bytes,
      digest: Digest,
      /** When the end frame had been checked. Absent: it got lost or there was none, and the source's Performed stood in for it. */
      endFrameAt: Type.Optional(Moment),
      /** When the hypervisor had loaded the whole image. */
      loadedAt: Moment,
    }),
  },
  Cancelled: {
    kind: 'verdict',
    about: 'migration',
    version: 1,
    data: Type.Object({ ...after, target: Name, cause: Cause }),
  },

  // Hosts: `ferry.host.<host>`
  HostReported: {
    kind: 'host',
    about: 'writer',
    version: 1,
    data: Type.Object({
      address: Address,
      key: CurveKey,
      hypervisor: Text,
      hypervisorVersion: Text,
      cpu: Text,
      machines: Type.Array(Text),
      cpuModels: Type.Array(Text),
      accelerators: Type.Array(Text),
      memoryBytes: Bytes,
      guests: Type.Array(GuestReport),
      /** The position of this host's last fact when it looked: what it said later about a guest is newer than this. */
      asOf: Position,
      /** The last alarm about the log that this host has heeded: from then on nothing was done here, and nothing was under way. */
      stopped: Type.Optional(Position),
      agentVersion: Text,
      /** This host's clock minus the log server's, and how wrong that may be; absent until it was measured. */
      clock: Type.Optional(Type.Object({ offsetMs: Type.Number(), errorMs: Milliseconds })),
      ...transferVersion,
      /** The definitions that this host's driver reads and writes. Absent: the first version. */
      definitionVersions: Type.Optional(Versions),
      /** The newest decisions that this host can judge. Absent: the first. */
      decisionsVersion: Type.Optional(Version),
    }),
  },
  /** Someone came to the transfer port without a right to; said at most once in a while, with a count. */
  ConnectionRefused: {
    kind: 'host',
    about: 'writer',
    version: 1,
    data: Type.Object({
      why: Type.Union([
        Type.Literal('UnknownTransfer'),
        Type.Literal('UsedTransfer'),
        Type.Literal('ExpiredTransfer'),
        Type.Literal('WrongKey'),
        Type.Literal('NotFerry'),
        Type.Literal('Silent'),
      ]),
      transfer: Type.Optional(Id),
      remoteAddress: Text,
      times: Type.Integer({ minimum: 1 }),
    }),
  },

  // Coordinators: `ferry.coordinator.<coordinator>`
  LeadershipTaken: {
    kind: 'coordinator',
    about: 'writer',
    version: 1,
    data: Type.Object({ epoch: Type.Integer({ minimum: 1 }) }),
  },

  // Alarms: `ferry.alarm.<host|coordinator>.<who>`
  /** The log does not hold what its writer has seen in it: nothing is decided or started until somebody has answered. */
  LogBehind: {
    kind: 'alarm',
    about: 'writer',
    version: 1,
    data: Type.Object({
      /** Of which life of the log the writer speaks: a recovery begins a new one, and answers for all before. */
      life: Position,
      missing: Type.Object({ position: Position, id: Text, subject: Text }),
      /** Where the log ended when that was found out. */
      head: Position,
    }),
  },

  // The answer to alarms: `ferry.alarm.answered`
  /** The fleet was compared with the log, and a person says what is true. No attempt from before goes on. */
  LogRecovered: {
    kind: 'recovery',
    about: 'writer',
    version: 1,
    data: Type.Object({
      ...after,
      /** The positions of the alarms that are answered. */
      answers: Type.Array(Position, { minItems: 1 }),
      by: Who,
      evidence: Type.Optional(Text),
      /** Silent hosts, of which that person has made sure that no guest runs there unless it is said below. */
      without: Type.Array(Name),
      /** Every guest that was in question, and the one host that it belongs to; without one, the guest is lost. */
      guests: Type.Array(
        Type.Object({
          vm: Name,
          host: Type.Optional(Name),
          /** By that host's own inventory. */
          isRunning: Type.Boolean(),
        }),
      ),
    }),
  },

  // Progress: `ferry.progress.<host>.<vm>`, in a stream of its own, kept by age
  ProgressSampled: {
    kind: 'progress',
    about: 'migration',
    version: 1,
    data: CopyProgress,
  },
} as const satisfies Record<string, Shape>

export type MessageName = keyof typeof messages

/** The shape of the data of one message. */
export type DataOf<Name extends MessageName> = Static<(typeof messages)[Name]['data']>

/** The names of all messages of one kind, or about one thing. */
export type NamesOf<K extends Kind> = {
  [Name in MessageName]: (typeof messages)[Name]['kind'] extends K ? Name : never
}[MessageName]

export type NamesAbout<A extends About> = {
  [Name in MessageName]: (typeof messages)[Name]['about'] extends A ? Name : never
}[MessageName]

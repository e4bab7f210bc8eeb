import type { Chance } from './chance.ts'

/** What may go wrong, as plain probabilities and rates. Zero is never. */
export type Faults = {
  /** A request to the log's server, or its answer, gets lost; one that takes longer than anybody waits. */
  readonly lostRequest: number
  readonly lostAnswer: number
  readonly lateAnswer: number
  /** What is followed comes late. */
  readonly lateFollow: number
  /** A command delivered twice, or again though its acknowledgement was sent. */
  readonly repeatedDelivery: number
  readonly lostAck: number
  /** The server lets a guarded append through that it should have turned away, as clusters before 2.9.21 do. */
  readonly leakyGuard: number
  /** The server has forgotten that it stored this id before. */
  readonly forgottenId: number
  /** Junk and forged messages, for each second. */
  readonly junkPerSecond: number
  /** A coordinator out of its mind, for each second: an old command again, or one that nothing in the log asks for. */
  readonly rashCommandPerSecond: number
  /** After a step of a process (an answer, a driver's call): it dies. */
  readonly crash: number
  /** For each second and machine or guest. */
  readonly hostCrashPerSecond: number
  readonly hypervisorCrashPerSecond: number
  readonly logStopPerSecond: number
  readonly freezePerSecond: number
  readonly partitionPerSecond: number
  /** A driver's call fails, hangs, or answers late; a guest's start fails for good. */
  readonly driverFails: number
  readonly driverHangs: number
  readonly driverLate: number
  readonly driverRefuses: number
  /** For each piece of an image on its way. */
  readonly streamCut: number
  readonly streamStall: number
  readonly streamFlip: number
  /** How wrong clocks may be. */
  readonly clockOffsetMs: number
  readonly clockDrift: number
  /** For each request of an operator: that a cancel, a repetition or a contradiction follows. */
  readonly cancel: number
  readonly repeatedRequest: number
  /** What a writer has said is stored once more, however long after, for each second. */
  readonly repeatedMessagePerSecond: number
  /** The log's server stops, and comes back without its last few messages, or as it was a while ago. */
  readonly lostTailPerSecond: number
  /** A snapshot that is stored is altered, or a part of it goes. */
  readonly snapshotRotPerSecond: number
  /** A machine's disk is full for a while, for each second and machine: what its agent has seen cannot be written down. */
  readonly diskFullPerSecond: number
  /** The same of the log's server: it answers that it stores nothing. */
  readonly logFullPerSecond: number
  /**
   * A hypervisor says that it has done what it was told, and has not:
   * - activate: the guest stays loaded, and runs nowhere once its source is released. That is the hypervisor's doing: the
   *   guest counts as hurt. The inventory tells, and nobody repairs it.
   * - resume: the same, of a source that stays paused.
   * - release: a copy that does not run is still there. The inventory tells; it is never started.
   * - clear: the same, of a copy that was never told to start. Of one whose start was refused it must not lie: the word that
   *   it never ran lets the source run on, and rests on this copy's end.
   * Never that a copy which runs does not: nothing could hold I1 then.
   */
  readonly driverLies: number
  /** For each request of an operator: that its limits are changed a moment later. */
  readonly limit: number
  /** That its image goes from hypervisor to hypervisor, and through no agent. */
  readonly direct: number
  /** Of those that go directly: how many may be committed to before all of them is there. */
  readonly postCopy: number
  /** Of those that go directly: how many the target's hypervisor has loaded without its source's being told, which breaks off then. */
  readonly lostLoaded: number
}

export const noFaults: Faults = {
  lostRequest: 0,
  lostAnswer: 0,
  lateAnswer: 0,
  lateFollow: 0,
  repeatedDelivery: 0,
  lostAck: 0,
  leakyGuard: 0,
  forgottenId: 0,
  junkPerSecond: 0,
  rashCommandPerSecond: 0,
  crash: 0,
  hostCrashPerSecond: 0,
  hypervisorCrashPerSecond: 0,
  logStopPerSecond: 0,
  freezePerSecond: 0,
  partitionPerSecond: 0,
  driverFails: 0,
  driverHangs: 0,
  driverLate: 0,
  driverRefuses: 0,
  streamCut: 0,
  streamStall: 0,
  streamFlip: 0,
  clockOffsetMs: 0,
  clockDrift: 0,
  cancel: 0,
  repeatedRequest: 0,
  repeatedMessagePerSecond: 0,
  lostTailPerSecond: 0,
  snapshotRotPerSecond: 0,
  diskFullPerSecond: 0,
  logFullPerSecond: 0,
  driverLies: 0,
  limit: 0,
  direct: 0,
  postCopy: 0,
  lostLoaded: 0,
}

/** The most of each. New ones stand last: what a seed drew before stays as it was. */
const worst: Faults = {
  lostRequest: 0.03,
  lostAnswer: 0.03,
  lateAnswer: 0.03,
  lateFollow: 0.1,
  repeatedDelivery: 0.2,
  lostAck: 0.2,
  leakyGuard: 0.5,
  forgottenId: 0.3,
  junkPerSecond: 2,
  rashCommandPerSecond: 1,
  crash: 0.004,
  hostCrashPerSecond: 0.02,
  hypervisorCrashPerSecond: 0.02,
  logStopPerSecond: 0.05,
  freezePerSecond: 0.05,
  partitionPerSecond: 0.08,
  driverFails: 0.03,
  driverHangs: 0.02,
  driverLate: 0.1,
  driverRefuses: 0.03,
  streamCut: 0.03,
  streamStall: 0.02,
  streamFlip: 0.01,
  clockOffsetMs: 300_000,
  clockDrift: 0.01,
  cancel: 0.3,
  repeatedRequest: 0.3,
  repeatedMessagePerSecond: 5,
  lostTailPerSecond: 0.06,
  snapshotRotPerSecond: 0.1,
  diskFullPerSecond: 0.01,
  logFullPerSecond: 0.03,
  driverLies: 0.03,
  limit: 0.3,
  direct: 0.5,
  postCopy: 0.5,
  lostLoaded: 0.2,
}

/** Each run leaves some faults out and takes more or less of the others: all at once would hide what few can do. */
export const faultNames = Object.keys(worst) as (keyof Faults)[]

export function drawFaults(chance: Chance): Faults {
  const drawn: Record<keyof Faults, number> = { ...noFaults }
  for (const name of faultNames)
    drawn[name] = chance.happens(0.5) ? worst[name] * chance.pick([0.1, 0.3, 1]) : 0
  return drawn
}

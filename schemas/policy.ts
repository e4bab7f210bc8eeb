import { Type } from 'typebox'
import type { Static } from 'typebox'
import { Bytes, Milliseconds } from './words.ts'

/** How a migration may be done: what an operator can set, and what is taken when nothing was said. */
export const Policy = Type.Object({
  /** The most that the copying may take of the network; absent means: no limit. */
  bandwidthBytesPerSecond: Type.Optional(Type.Integer({ minimum: 65536 })),
  /** The downtime that the hypervisor aims at when it decides to switch over. */
  downtimeMs: Milliseconds,
  /** Slow the guest down step by step when its memory gets dirty faster than it is copied. */
  autoConverge: Type.Boolean(),
  /** Disks that the hosts do not share travel with their guest; where its driver can do that. */
  copyDisks: Type.Optional(Type.Boolean()),
  /**
   * The two hypervisors move the image by themselves, in the clear, over so many TCP connections; where their driver and
   * both hosts allow that. Absent: it goes through Ferry's own stream.
   */
  directConnections: Type.Optional(Type.Integer({ minimum: 1, maximum: 16 })),
  /**
   * Post-copy: when all of the memory has been sent once and so long has passed, the guest is started at the target, and
   * what it lacks there follows. Until all of that is there, it is lost with either host. Absent: never.
   */
  postCopyAfterMs: Type.Optional(Milliseconds),
  /** The whole migration, from the request on; past it, it is cancelled unless it is committed. */
  timeoutMs: Type.Number({ minimum: 1000 }),
  /** How often it is tried in all. */
  attempts: Type.Integer({ minimum: 1, maximum: 20 }),
})
export type Policy = Static<typeof Policy>

/** What may be changed while it is on its way. What is absent stays as it is; a bandwidth of `null` takes the limit away. */
export const Limits = Type.Object({
  bandwidthBytesPerSecond: Type.Optional(
    Type.Union([Policy.properties.bandwidthBytesPerSecond, Type.Null()]),
  ),
  downtimeMs: Type.Optional(Policy.properties.downtimeMs),
})
export type Limits = Static<typeof Limits>

export function limited(policy: Policy, limits: Limits): Policy {
  const { bandwidthBytesPerSecond: before, ...rest } = policy
  const { bandwidthBytesPerSecond = before, downtimeMs = policy.downtimeMs } = limits
  return {
    ...rest,
    downtimeMs,
    ...(typeof bandwidthBytesPerSecond === 'number' ? { bandwidthBytesPerSecond } : {}),
  }
}

export const defaultPolicy: Policy = {
  downtimeMs: 300,
  autoConverge: false,
  timeoutMs: 60 * 60 * 1000,
  attempts: 3,
}

/** Precopy, as far as a hypervisor tells: the same numbers in rounds and in progress samples. */
export const CopyProgress = Type.Object({
  round: Type.Integer({ minimum: 0 }),
  transferredBytes: Bytes,
  remainingBytes: Bytes,
  totalBytes: Bytes,
  bandwidthBytesPerSecond: Type.Number({ minimum: 0 }),
  dirtyBytesPerSecond: Type.Number({ minimum: 0 }),
  expectedDowntimeMs: Milliseconds,
  /** How much auto-converge takes from the vCPUs, in percent. */
  throttlePercent: Type.Number({ minimum: 0, maximum: 100 }),
})
export type CopyProgress = Static<typeof CopyProgress>

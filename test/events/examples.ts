import type { EventOf, Writer } from '@ferry/schemas/event'
import type { GuestNeeds } from '@ferry/schemas/guest'
import type { GuestReport } from '@ferry/schemas/inventory'
import type { DataOf, MessageName } from '@ferry/schemas/messages'
import { defaultPolicy } from '@ferry/schemas/policy'
import type { Limits, Policy } from '@ferry/schemas/policy'
import type { Cause, Failure, HostRefusal } from '@ferry/schemas/refusal'

/**
 * Events with good defaults: a test names only what it is about. web1 moves from rack1 to rack2 in the migration m1.
 * `RIGHT` stands for "whatever is right here": `story.ts` puts the real head or admission in its place.
 */
export const RIGHT = Number.MAX_SAFE_INTEGER

export const needs: GuestNeeds = {
  memoryBytes: 1024 ** 3,
  vcpus: 1,
  hypervisor: 'simulated',
  machine: 'pc',
  cpu: 'qemu64',
  accelerator: 'tcg',
}

type Given = { id?: string; vm?: string; migration?: string; attempt?: number; writer?: Writer }

const source: Writer = { host: 'rack1' }
const target: Writer = { host: 'rack2' }
const coordinator: Writer = { coordinator: 'c1' }
const TIME = '2026-11-23T10:00:00.000Z'
export const SOME_KEY = `X${'A'.repeat(55)}`
export const SOME_DIGEST = '0'.repeat(32)

let counter = 0
const envelope = <Name extends MessageName>(type: Name, given: Given, writer: Writer) => ({
  type,
  id: given.id ?? `${type}-${counter++}`,
  writer: given.writer ?? writer,
  time: TIME,
  vm: given.vm ?? 'web1',
  migration: given.migration ?? 'm1',
  attempt: given.attempt ?? 1,
})

export const hostReported = (
  host: string,
  guests: readonly (Pick<GuestReport, 'vm' | 'state' | 'receives'> & { needs?: GuestNeeds })[] = [],
  more: Partial<DataOf<'HostReported'>> = {},
): EventOf<'HostReported'> => ({
  type: 'HostReported',
  id: `HostReported-${counter++}`,
  writer: { host },
  time: TIME,
  data: {
    address: { host: '10.0.0.1', port: 7100 },
    key: SOME_KEY,
    hypervisor: 'simulated',
    hypervisorVersion: '1',
    cpu: 'some CPU',
    machines: ['pc'],
    cpuModels: ['qemu64'],
    accelerators: ['tcg'],
    memoryBytes: 4 * 1024 ** 3,
    guests: guests.map((guest) => ({ needs, ...guest })),
    asOf: 0,
    agentVersion: '0.1.0',
    transferVersion: 1,
    ...more,
  },
})

export const requested = (
  given: Given & { after?: number; source?: string; target?: string; policy?: object } = {},
): EventOf<'MigrationRequested'> => ({
  ...envelope('MigrationRequested', given, coordinator),
  data: {
    after: given.after ?? RIGHT,
    source: given.source ?? 'rack1',
    ...(given.target === undefined ? {} : { target: given.target }),
    policy: { ...defaultPolicy, ...given.policy },
    by: 'test',
  },
})

export const admitted = (
  given: Given & { after?: number; target?: string } = {},
): EventOf<'Admitted'> => ({
  ...envelope('Admitted', given, coordinator),
  data: { after: given.after ?? RIGHT, source: 'rack1', target: given.target ?? 'rack2' },
})

export const cancelAsked = (given: Given & { after?: number } = {}): EventOf<'CancelAsked'> => ({
  ...envelope('CancelAsked', given, coordinator),
  data: { after: given.after ?? RIGHT, by: 'test' },
})

export const limitsSet = (
  given: Given & { after?: number; limits?: Limits } = {},
): EventOf<'LimitsSet'> => ({
  ...envelope('LimitsSet', given, coordinator),
  data: { after: given.after ?? RIGHT, ...given.limits, by: 'test' },
})

export const begin = (given: Given = {}): EventOf<'Begin'> => ({
  ...envelope('Begin', given, coordinator),
  data: {
    admission: RIGHT,
    host: 'rack1',
    target: 'rack2',
    targetKey: SOME_KEY,
    policy: defaultPolicy,
  },
})

export const migrationBegun = (
  given: Given & { admission?: number } = {},
): EventOf<'MigrationBegun'> => ({
  ...envelope('MigrationBegun', given, source),
  data: {
    admission: given.admission ?? RIGHT,
    needs,
    sealedDefinition: 'c2VhbGVk',
    transferVersion: 1,
  },
})

export const prepare = (given: Given = {}): EventOf<'Prepare'> => ({
  ...envelope('Prepare', given, coordinator),
  data: {
    admission: RIGHT,
    host: 'rack2',
    source: 'rack1',
    sourceKey: SOME_KEY,
    needs,
    sealedDefinition: 'c2VhbGVk',
    transferVersion: 1,
  },
})

/** What `targetPrepared` says, handed on. */
export const perform = (given: Given & { policy?: Policy } = {}): EventOf<'Perform'> => {
  const { expiresAt: _, ...prepared } = targetPrepared().data
  const { policy = defaultPolicy } = given
  return {
    ...envelope('Perform', given, coordinator),
    data: {
      ...prepared,
      admission: RIGHT,
      host: 'rack1',
      target: 'rack2',
      targetKey: SOME_KEY,
      policy,
    },
  }
}

export const finish = (given: Given = {}): EventOf<'Finish'> => ({
  ...envelope('Finish', given, coordinator),
  data: { admission: RIGHT, host: 'rack2', source: 'rack1', transfer: 't1' },
})

export const confirm = (given: Given = {}): EventOf<'Confirm'> => ({
  ...envelope('Confirm', given, coordinator),
  data: { host: 'rack1', admission: RIGHT, target: 'rack2' },
})
export const cancel = (role: 'source' | 'target', given: Given = {}): EventOf<'Cancel'> => ({
  ...envelope('Cancel', given, coordinator),
  data: {
    host: role === 'source' ? 'rack1' : 'rack2',
    admission: RIGHT,
    role,
    target: 'rack2',
  },
})
export const targetPrepared = (given: Given = {}): EventOf<'TargetPrepared'> => ({
  ...envelope('TargetPrepared', given, target),
  data: {
    admission: RIGHT,
    transfer: 't1',
    address: { host: '10.0.0.2', port: 7100 },
    sealedKey: 'c2VhbGVk',
    expiresAt: 1,
    transferVersion: 1,
  },
})

export const prepareRefused = (
  given: Given & { refusal?: HostRefusal } = {},
): EventOf<'PrepareRefused'> => ({
  ...envelope('PrepareRefused', given, target),
  data: {
    admission: RIGHT,
    refusal: given.refusal ?? { type: 'DiskMissing', path: '/shared/web1.qcow2' },
  },
})

export const roundPassed = (round: number, given: Given = {}): EventOf<'RoundPassed'> => ({
  ...envelope('RoundPassed', given, source),
  data: {
    admission: RIGHT,
    round,
    transferredBytes: round * 1024 ** 2,
    remainingBytes: 1024 ** 2,
    totalBytes: 1024 ** 3,
    bandwidthBytesPerSecond: 100 * 1024 ** 2,
    dirtyBytesPerSecond: 1024 ** 2,
    expectedDowntimeMs: 30,
    throttlePercent: 0,
  },
})

export const sourcePaused = (
  given: Given & { admission?: number; pausedAt?: number; offer?: { bytes: number } } = {},
): EventOf<'SourcePaused'> => ({
  ...envelope('SourcePaused', given, source),
  data: {
    admission: given.admission ?? 1,
    pausedAt: given.pausedAt ?? 1000,
    ...(given.offer === undefined ? {} : { offer: { ...given.offer, digest: 'b'.repeat(32) } }),
  },
})

export const performed = (given: Given & { isDirect?: true } = {}): EventOf<'Performed'> => ({
  ...envelope('Performed', given, source),
  data: {
    admission: RIGHT,
    pausedAt: 1000,
    gatePassedAt: 1001,
    sentAt: 1020,
    endFrameAt: 1021,
    bytes: 4096,
    digest: SOME_DIGEST,
    rounds: 2,
    ...(given.isDirect === true ? { isDirect: true } : {}),
  },
})

export const performFailed = (
  given: Given & { failure?: Failure } = {},
): EventOf<'PerformFailed'> => ({
  ...envelope('PerformFailed', given, source),
  data: { admission: RIGHT, failure: given.failure ?? { type: 'AgentRestarted' } },
})

export const receiveFailed = (
  given: Given & { failure?: Failure } = {},
): EventOf<'ReceiveFailed'> => ({
  ...envelope('ReceiveFailed', given, target),
  data: { admission: RIGHT, failure: given.failure ?? { type: 'StreamCut', receivedBytes: 7 } },
})

export const committed = (
  given: Given & { target?: string; after?: number; endFrameIsLost?: true } = {},
): EventOf<'Committed'> => ({
  ...envelope('Committed', given, { host: given.target ?? 'rack2' }),
  data: {
    after: given.after ?? 0,
    target: given.target ?? 'rack2',
    bytes: 4096,
    digest: SOME_DIGEST,
    ...(given.endFrameIsLost === true ? {} : { endFrameAt: 1022 }),
    loadedAt: 1024,
  },
})

export const cancelled = (
  given: Given & { target?: string; after?: number; cause?: Cause } = {},
): EventOf<'Cancelled'> => ({
  ...envelope('Cancelled', given, coordinator),
  data: {
    after: given.after ?? 0,
    target: given.target ?? 'rack2',
    cause: given.cause ?? { type: 'Asked', by: 'test' },
  },
})

export const targetRunning = (given: Given = {}): EventOf<'TargetRunning'> => ({
  ...envelope('TargetRunning', given, target),
  data: { admission: RIGHT, committedAt: 1026, runningAt: 1027 },
})

export const targetFetching = (
  given: Given & { isBroken: boolean },
): EventOf<'TargetFetching'> => ({
  ...envelope('TargetFetching', given, target),
  data: { admission: RIGHT, runningAt: 1027, isBroken: given.isBroken },
})

export const targetNeverRan = (given: Given = {}): EventOf<'TargetNeverRan'> => ({
  ...envelope('TargetNeverRan', given, target),
  data: { admission: RIGHT, failure: { type: 'GuestGone', vm: 'web1' } },
})

export const targetCleared = (
  given: Given & { admission?: number } = {},
): EventOf<'TargetCleared'> => ({
  ...envelope('TargetCleared', given, target),
  data: { admission: given.admission ?? RIGHT },
})

export const sourceReleased = (given: Given = {}): EventOf<'SourceReleased'> => ({
  ...envelope('SourceReleased', given, source),
  data: { admission: RIGHT },
})

export const sourceResumed = (
  given: Given & { wasPaused?: boolean } = {},
): EventOf<'SourceResumed'> => ({
  ...envelope('SourceResumed', given, source),
  data: { admission: RIGHT, wasPaused: given.wasPaused ?? true, runningAt: 1100 },
})

export const sourceLost = (given: Given = {}): EventOf<'SourceLost'> => ({
  ...envelope('SourceLost', given, source),
  data: { admission: RIGHT },
})

export const retried = (given: Given & { cause?: Cause } = {}): EventOf<'Retried'> => ({
  ...envelope('Retried', given, coordinator),
  data: {
    after: RIGHT,
    cause: given.cause ?? { type: 'Failed', host: 'rack1', failure: { type: 'AgentRestarted' } },
    openDuties: [],
  },
})

export const completed = (given: Given & { after?: number } = {}): EventOf<'Completed'> => ({
  ...envelope('Completed', given, coordinator),
  data: { after: given.after ?? RIGHT, openDuties: [] },
})

export const abandoned = (given: Given = {}): EventOf<'Abandoned'> => ({
  ...envelope('Abandoned', given, coordinator),
  data: { after: RIGHT, cause: { type: 'Asked', by: 'test' }, openDuties: [], guestLost: false },
})

export const fenced = (
  given: Given & { after?: number; host?: string } = {},
): EventOf<'Fenced'> => ({
  ...envelope('Fenced', given, coordinator),
  data: {
    after: given.after ?? RIGHT,
    host: given.host ?? 'rack2',
    by: 'test',
    evidence: 'its power is off',
  },
})

export const fenceFailed = (given: Given = {}): EventOf<'FenceFailed'> => ({
  ...envelope('FenceFailed', given, coordinator),
  data: { after: RIGHT, host: 'rack2', by: 'fence_test', evidence: 'off ended with 1' },
})

export const doubtRaised = (given: Given = {}): EventOf<'DoubtRaised'> => ({
  ...envelope('DoubtRaised', given, coordinator),
  data: { after: RIGHT, host: 'rack2', question: 'Does web1 run on rack2?' },
})

export const logBehind = (life = 0): EventOf<'LogBehind'> => ({
  type: 'LogBehind',
  id: `behind-${life}`,
  writer: { host: 'rack2' },
  time: TIME,
  data: {
    life,
    missing: { position: 500, id: 'm1.1.Committed', subject: 'ferry.verdict.rack2.m1.1' },
    head: 40,
  },
})
export const logRecovered = (
  data: Partial<EventOf<'LogRecovered'>['data']>,
  id = 'recovered',
): EventOf<'LogRecovered'> => ({
  type: 'LogRecovered',
  id,
  writer: { coordinator: 'c1' },
  time: TIME,
  data: { after: 0, answers: [1], by: 'test', without: [], guests: [], ...data },
})

/** A migration's events up to where the copying goes on. */
export const upToPerforming = (asked: Parameters<typeof requested>[0] = {}) => [
  hostReported('rack1', [{ vm: 'web1', state: 'running' }]),
  hostReported('rack2'),
  requested(asked),
  admitted(),
  begin(),
  migrationBegun(),
  prepare(),
  targetPrepared(),
]

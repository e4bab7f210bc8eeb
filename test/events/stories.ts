import type { Entry } from '@ferry/events/entry'
import type { Event } from '@ferry/schemas/event'
import * as fc from 'fast-check'
import {
  RIGHT,
  abandoned,
  admitted,
  begin,
  cancelAsked,
  cancelled,
  committed,
  completed,
  fenced,
  limitsSet,
  hostReported,
  logBehind,
  logRecovered,
  performFailed,
  performed,
  prepare,
  receiveFailed,
  requested,
  retried,
  roundPassed,
  sourcePaused,
  sourceReleased,
  sourceResumed,
  targetCleared,
  targetPrepared,
  targetRunning,
  upToPerforming,
} from './examples.ts'

/** One migration from its hosts' first reports to its end. */
export const whole = () => [
  ...upToPerforming(),
  roundPassed(1),
  sourcePaused({ admission: RIGHT }),
  performed(),
  committed(),
  targetRunning(),
  sourceReleased(),
  completed(),
]

const anything: fc.Arbitrary<Event> = fc.oneof(
  fc.constantFrom(...whole()),
  fc.constantFrom(
    cancelAsked(),
    cancelled(),
    limitsSet({ limits: { downtimeMs: 50 } }),
    limitsSet({ limits: { bandwidthBytesPerSecond: null } }),
    retried(),
    abandoned(),
    fenced(),
    performFailed(),
    receiveFailed(),
    sourceResumed(),
    targetCleared(),
    requested({ migration: 'm2', after: 0 }),
    requested({ migration: 'm3' }),
    admitted({ migration: 'm2', after: 0 }),
    begin({ attempt: 2 }),
    prepare({ vm: 'web2' }),
    targetPrepared({ attempt: 2 }),
    hostReported('rack2', [{ vm: 'web1', state: 'running' }]),
    logBehind(),
    logRecovered({ guests: [{ vm: 'web1', host: 'rack2', isRunning: true }] }),
  ),
)

/** Any events in any order: most are void where they stand. */
export const anyStory: fc.Arbitrary<Event[]> = fc.oneof(
  fc.array(anything, { maxLength: 40 }),
  fc
    .tuple(fc.nat(15), fc.array(anything, { maxLength: 20 }))
    .map(([upTo, more]) => [...whole().slice(0, upTo), ...more]),
)

export async function* asyncly(entries: Iterable<Entry>): AsyncGenerator<Entry, void, undefined> {
  yield* entries
}

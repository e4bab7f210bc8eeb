import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { printTimeline } from '@ferry/coordinator/cli/explain'
import { timelineOf } from '@ferry/events/timeline'
import type { ClockReading } from '@ferry/events/timeline'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { tell } from '../story.ts'
import type { Telling } from '../story.ts'
import {
  RIGHT,
  abandoned,
  admitted,
  begin,
  cancelled,
  committed,
  completed,
  fenced,
  limitsSet,
  migrationBegun,
  performFailed,
  performed,
  prepare,
  requested,
  retried,
  roundPassed,
  sourcePaused,
  sourceReleased,
  sourceResumed,
  targetCleared,
  targetPrepared,
  targetFetching,
  targetRunning,
  upToPerforming,
} from './examples.ts'

/**
 * Post-mortems as people read them, each in a file of its own in `test/golden`. After a change that is meant, write them
 * anew with `FERRY_WRITE_GOLDEN=1 npm test -- timeline`, and read the difference.
 */
const test = suite('a timeline')

const paused = () => sourcePaused({ admission: RIGHT, pausedAt: 1000 })
const arrived = () => [
  ...upToPerforming(),
  roundPassed(1),
  roundPassed(2),
  paused(),
  performed(),
  committed(),
  targetRunning(),
  sourceReleased(),
  completed(),
]
const cause = { type: 'Failed', host: 'rack1', failure: { type: 'AgentRestarted' } } as const

const stories: { readonly [name: string]: readonly Telling[] } = {
  completed: arrived(),
  'tried-again': [
    ...upToPerforming(),
    performFailed(),
    cancelled({ cause }),
    [sourceResumed({ wasPaused: false }), targetCleared(), retried({ cause })],
    [admitted({ attempt: 2 }), begin({ attempt: 2 }), migrationBegun({ attempt: 2 })],
    [prepare({ attempt: 2 }), targetPrepared({ attempt: 2 }), performed({ attempt: 2 })],
    [committed({ attempt: 2 }), targetRunning({ attempt: 2 }), sourceReleased({ attempt: 2 })],
    completed({ attempt: 2 }),
  ],
  'paused-and-home-again': [
    ...upToPerforming(),
    paused(),
    [cancelled(), sourceResumed(), targetCleared(), abandoned()],
  ],
  fenced: [...upToPerforming(), paused(), committed(), fenced(), [sourceResumed(), abandoned()]],
  limited: [
    ...upToPerforming(),
    limitsSet({ limits: { bandwidthBytesPerSecond: 200 * 2 ** 20, downtimeMs: 50 } }),
    roundPassed(1),
    limitsSet({ limits: { bandwidthBytesPerSecond: null } }),
  ],
  // No end frame: the source's own word stands in for it.
  'went-directly': [
    ...upToPerforming(),
    paused(),
    performed({ isDirect: true }),
    committed({ endFrameIsLost: true }),
    [targetRunning(), sourceReleased(), completed()],
  ],
  // Post-copy: the verdict comes first, and the rest of the memory last.
  'went-early': [
    ...upToPerforming(),
    sourcePaused({ admission: RIGHT, pausedAt: 1000, offer: { bytes: 2 ** 20 } }),
    committed({ endFrameIsLost: true }),
    performed({ isDirect: true }),
    targetFetching({ isBroken: false }),
    [targetRunning(), sourceReleased(), completed()],
  ],
  'under-way': [...upToPerforming(), roundPassed(1)],
  'with-voids': [
    ...upToPerforming(),
    // Too late, forged, and not the first: visible and harmless.
    requested({ after: 0 }),
    targetRunning({ writer: { host: 'rack1' } }),
    cancelled(),
    committed(),
  ],
}

const clockOf = (): ClockReading => ({ offsetMs: 0, errorMs: 0.5 })

for (const [name, story] of Object.entries(stories))
  test(`${name}: reads as it did`, async () => {
    const timeline = timelineOf('m1', tell(...story).entries, clockOf)
    assert.ok(timeline)
    const text = timeline === undefined ? '' : `${printTimeline(timeline)}\n`
    const file = join(import.meta.dirname, '..', 'golden', `${name}.txt`)
    if (process.env.FERRY_WRITE_GOLDEN !== undefined) await writeFile(file, text)
    assert.fixture(text, await readFile(file, 'utf8'))
  })

test('the phases of a migration lie end to end, from the request to the end', () => {
  const { entries } = tell(...arrived())
  const timeline = timelineOf('m1', entries, clockOf)
  const spans = timeline?.attempts.flatMap(({ spans: each }) => each) ?? []
  assert.is(spans[0]?.from.storedAt, timeline?.requested.storedAt)
  for (const [nth, span] of spans.entries()) {
    const next = spans[nth + 1]?.from.storedAt ?? timeline?.end?.storedAt
    assert.is(span.from.storedAt + span.ms, next)
  }
})

test('the parts of a downtime are the downtime, whatever the clocks of the hosts say', () => {
  const { entries } = tell(...arrived())
  // The target is five milliseconds ahead: what it called 1027 was 1022.
  for (const [offsetMs, expectedMs] of [
    [0, 27],
    [5, 22],
  ] as const) {
    const clocks = (host: string) => ({ offsetMs: host === 'rack2' ? offsetMs : 0, errorMs: 0.5 })
    const downtime = timelineOf('m1', entries, clocks)?.attempts[0]?.downtime
    assert.is(downtime?.ms, expectedMs)
    assert.is(
      downtime?.parts.reduce((total, { ms }) => total + ms, 0),
      expectedMs,
    )
    assert.is(downtime?.errorMs, 1)
  }
})

test('what is not in the log has no timeline', () => {
  assert.is(timelineOf('nothing', tell(...arrived()).entries, clockOf), undefined)
})

test.run()

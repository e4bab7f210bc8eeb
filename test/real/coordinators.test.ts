import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readTimeline } from '@ferry/coordinator/cli/explain'
import { systemClock, timestamp } from '@ferry/events/clock'
import { decisions } from '@ferry/events/subjects'
import { defaultPolicy } from '@ferry/schemas/policy'
import { quietGuest } from '../guest/boot-sector.ts'
import { median } from '../bench/figures.ts'
import { cellsWith, runCells } from './chaos/matrix.ts'
import { until } from '../until.ts'
import { withLab } from './lab.ts'
import type { Lab } from './lab.ts'

const test = suite('several coordinators')

test('a leader that is killed is followed by another one, which takes the next step', async () => {
  const cells = cellsWith('preparing: the leader killed')
  const rows = await runCells(cells, () => {}, { coordinators: 3, backAfter: 'Completed' })
  const [row] = rows
  assert.equal(row?.result.broken, [])
  assert.is(row?.result.outcome, 'completed')
  // 2 s on a machine that does nothing else; this one may.
  assert.ok((row?.result.nextStepMs ?? Number.NaN) < 10_000, `${row?.result.nextStepMs} ms`)
})

test('no coordinator is needed for a switchover, and none makes it shorter', async () => {
  const cells = [...cellsWith('performing: nobody'), ...cellsWith('performing: all coordinators')]
  const rows = await runCells([...cells, ...cells], () => {})
  assert.equal(
    rows.flatMap(({ result }) => result.broken),
    [],
  )
  const downtime = (victim: string) =>
    median(
      rows
        .filter(({ cell }) => cell.victim === victim)
        .map(({ result }) => result.downtimeMs ?? Number.NaN),
    )
  const [as, without] = [downtime('nobody'), downtime('all coordinators')]
  assert.ok(without < as * 10, `${without} ms without coordinators, ${as} ms with them`)
})

const MOST_MIGRATIONS = 10

const withTwo = (work: (lab: Lab) => Promise<void>) =>
  withLab({ hosts: ['rack1', 'rack2'], driver: 'qemu', coordinators: 2 }, async (lab) => {
    await lab.defineGuest('web1', { program: quietGuest, memoryMiB: 64 })
    await lab.start('web1', 'rack1')
    await work(lab)
  })

/**
 * The leader sleeps through a request and its cancelling, and wakes up when another one has abandoned the migration.
 * @returns its name, if it decided on the request before it heard of anything else. When it was stopped while it asked
 * for its lease, it knows from its clock that this is over, and decides nothing.
 */
async function sleepThrough(lab: Lab, migration: string): Promise<string | undefined> {
  const stale = await lab.leader()
  const process = lab.coordinators.get(stale)
  assert.ok(process)
  const { log } = lab.connection
  process?.signal('SIGSTOP')
  // Written as a third coordinator would: the two that are there may not have a say.
  const about = {
    writer: { coordinator: 'lab' },
    time: timestamp(systemClock.now()),
    vm: 'web1',
    migration,
    attempt: 1,
  }
  const abandoned = lab.event(
    `the other one to abandon ${migration}`,
    (event) => event.type === 'Abandoned' && event.migration === migration,
  )
  const started = await log.last(decisions('web1'))
  const requested = await log.append({
    ...about,
    type: 'MigrationRequested',
    id: `${migration}.MigrationRequested`,
    data: {
      after: started?.position ?? 0,
      source: 'rack1',
      target: 'rack2',
      policy: defaultPolicy,
      by: 'lab',
    },
  })
  await log.append({
    ...about,
    type: 'CancelAsked',
    id: `${migration}.1.CancelAsked`,
    data: { after: requested.position, by: 'lab' },
  })
  await abandoned

  const resignations = async () => (await process?.log())?.split('not leading any more').length
  const before = await resignations()
  process?.signal('SIGCONT')
  await until(`${stale} to follow`, async () => (await resignations()) !== before)
  const { phase, voids } = await readTimeline(lab.connection, migration)
  assert.is(phase, 'abandoned')
  await until('all to know who leads', async () => (await lab.leader()) !== stale)
  const [late] = voids
  if (late === undefined) return undefined
  assert.equal(
    voids.map(({ why }) => why),
    ['Admitted cannot happen while abandoned'],
  )
  for await (const { message } of log.read({ after: late.position - 1 })) {
    assert.equal(message.is === 'event' && message.event.writer, { coordinator: stale })
    break
  }
  return stale
}

test('a leader that was stopped decides on what it sees first when it wakes up; that is void, and the guest stays', () =>
  withTwo(async (lab) => {
    let late: string | undefined
    let migrations = 0
    while (late === undefined && migrations < MOST_MIGRATIONS)
      late = await sleepThrough(lab, `m${++migrations}`)
    assert.ok(late, `nobody decided late in ${migrations} migrations`)

    const moved = await lab.migrate({ request: 'moved', vm: 'web1', target: 'rack2' })
    assert.ok(moved.accepted, JSON.stringify(moved))
    assert.is((await lab.ended('moved')).phase, 'completed')
    assert.ok((await lab.onlyRunning()).folder.includes('/rack2/'))
    assert.is((await lab.memory('web1', quietGuest)).fault, undefined)
  }))

/** The late leader has its answer in its socket, and would ask the next host. */
test('a leader that was stopped before an answer came asks nothing twice when it wakes up', async () => {
  const [row] = await runCells(cellsWith('preparing: the leader stopped'), () => {})
  assert.equal(row?.result.broken, [])
  assert.is(row?.result.outcome, 'completed')
})

test.run()

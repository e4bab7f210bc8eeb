import { systemClock } from '@ferry/events/clock'
import { readTimeline } from '@ferry/coordinator/cli/explain'
import { facts } from '@ferry/events/subjects'
import type { FactName } from '@ferry/events/phases'
import type { Lab } from '../real/lab.ts'
import { withMonitor } from '../real/outside.ts'
import { until } from '../until.ts'
import { WARM_UP_MS } from './bare.ts'
import type { Move } from './figures.ts'

/** The same move by Ferry: coordinator, log, agents and their transfer, each a process of its own. */
export async function moveByFerry(
  lab: Lab,
  vm: string,
  round: number,
  policy: { readonly downtimeMs: number; readonly timeoutMs: number },
): Promise<Move> {
  await lab.start(vm, 'rack1')
  await systemClock.sleep(WARM_UP_MS)
  const request = `${vm}-${round}`
  const ended = lab.event(`${request} to end`, ({ type }) => ends.has(type))
  const began = systemClock.now()
  await lab.migrate({ request, vm, target: 'rack2', policy: { ...policy, attempts: 1 } })
  const last = await ended
  const timeline = await readTimeline(lab.connection, request)
  const [performed, ran] = [
    await lastSaid(lab, 'rack1', vm, 'Performed'),
    await lastSaid(lab, 'rack2', vm, 'TargetRunning'),
  ]
  await quitAll(lab)
  const { attempts, end } = timeline
  const { spans = [], downtime } = attempts[0] ?? {}
  const performing = spans.find(({ phase }) => phase === 'performing')
  const hasArrived = last.type === 'Completed' && end !== undefined && performing !== undefined
  if (!hasArrived || performed?.type !== 'Performed' || ran?.type !== 'TargetRunning')
    return { hasArrived: false, bitsPerSecond: 0 }

  const { pausedAt, sentAt, bytes } = performed.data
  const { runningAt = Number.NaN } = ran.data
  const copyBegan = performing.from.storedAt
  return {
    hasArrived: true,
    totalMs: end.storedAt - began,
    copyMs: runningAt - copyBegan,
    // Both are QEMU's own times, and there is one clock on this machine: nothing has to be compared.
    downtimeMs: runningAt - pausedAt,
    bitsPerSecond: (bytes * 8000) / (sentAt - copyBegan),
    spans: Object.fromEntries(spans.map(({ phase, ms }) => [phase, ms])),
    switchover: Object.fromEntries(downtime?.parts.map(({ what, ms }) => [what, ms]) ?? []),
  }
}

async function lastSaid({ connection }: Lab, host: string, vm: string, fact: FactName) {
  const entry = await connection.log.last(facts(host, vm, fact))
  return entry?.message.is === 'event' ? entry.message.event : undefined
}

const ends = new Set(['Completed', 'Abandoned'])

/** No guest of an earlier round may take the next one's processor. */
async function quitAll(lab: Lab): Promise<void> {
  for (const { folder } of await lab.qemus())
    await withMonitor(folder, (qmp) => qmp.execute('quit')).catch(() => {})
  await until('no guest to be left', async () => (await lab.qemus()).length === 0)
  await until('the fleet to know', async () =>
    (await lab.fleet()).guests.every(({ copies }) => copies.length === 0),
  )
}

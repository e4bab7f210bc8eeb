import { Type } from 'typebox'
import type { Static } from 'typebox'
import { parse } from '@ferry/schemas/parse'
import type { CopyProgress, Policy } from '@ferry/schemas/policy'
import type { Qmp } from './qmp.ts'

/** QEMU's migration in our words: its settings from a policy, its numbers as progress. */

const Query = Type.Object({
  status: Type.Optional(Type.String()),
  'expected-downtime': Type.Optional(Type.Number()),
  'error-desc': Type.Optional(Type.String()),
  'blocked-reasons': Type.Optional(Type.Array(Type.String())),
  'cpu-throttle-percentage': Type.Optional(Type.Number()),
  ram: Type.Optional(
    Type.Object({
      transferred: Type.Number(),
      remaining: Type.Number(),
      total: Type.Number(),
      mbps: Type.Number(),
      'dirty-pages-rate': Type.Number(),
      'page-size': Type.Number(),
      'dirty-sync-count': Type.Number(),
    }),
  ),
})
export type MigrationQuery = Static<typeof Query>

export const queryMigration = async (qmp: Qmp): Promise<MigrationQuery> =>
  parse(Query, await qmp.execute('query-migrate'), 'query-migrate')

/** QEMU without a limit: its own default is 128 MiB/s, and zero does not mean none in every version. */
const NO_LIMIT_BYTES_PER_SECOND = 2 ** 40

export async function setPolicy(qmp: Qmp, policy: Policy): Promise<void> {
  await qmp.execute('migrate-set-capabilities', {
    capabilities: [
      { capability: 'events', state: true },
      { capability: 'pause-before-switchover', state: true },
      { capability: 'auto-converge', state: policy.autoConverge },
    ],
  })
  await setLimits(qmp, policy)
}

/** What QEMU lets one change while it sends. */
export async function setLimits(qmp: Qmp, policy: Policy): Promise<void> {
  const { bandwidthBytesPerSecond = NO_LIMIT_BYTES_PER_SECOND, downtimeMs } = policy
  await qmp.execute('migrate-set-parameters', {
    'max-bandwidth': bandwidthBytesPerSecond,
    'downtime-limit': Math.round(downtimeMs),
  })
}

export function progressOf(query: MigrationQuery): CopyProgress | undefined {
  const { ram } = query
  if (ram === undefined) return undefined
  const whole = (value: number) => Math.max(0, Math.round(value))
  return {
    round: whole(ram['dirty-sync-count']),
    transferredBytes: whole(ram.transferred),
    remainingBytes: whole(ram.remaining),
    totalBytes: whole(ram.total),
    bandwidthBytesPerSecond: Math.max(0, (ram.mbps * 1e6) / 8),
    dirtyBytesPerSecond: Math.max(0, ram['dirty-pages-rate'] * ram['page-size']),
    expectedDowntimeMs: Math.max(0, query['expected-downtime'] ?? 0),
    throttlePercent: query['cpu-throttle-percentage'] ?? 0,
  }
}

const resting = new Set(['none', 'completed', 'failed', 'cancelled'])

/** Whether QEMU is sending or loading now. */
export const isUnderWay = ({ status = 'none' }: MigrationQuery): boolean => !resting.has(status)

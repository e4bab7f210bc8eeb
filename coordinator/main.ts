import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { findings } from '@ferry/events/durability'
import type { Durability } from '@ferry/events/durability'
import { connect } from '@ferry/events/log/connect'
import type { LogAddress } from '@ferry/events/log/connect'
import { serve } from '@ferry/events/log/requests'
import { watermarkFile } from '@ferry/events/log/watermark-file'
import { sayChecks } from '@ferry/events/say'
import type { Say } from '@ferry/events/say'
import { token } from '@ferry/events/subjects'
import { verbsOf } from './api.ts'
import { coordinate, defaultSettleMs } from './coordinate.ts'
import { defaultRules } from './decide/world.ts'
import type { Rules } from './decide/world.ts'
import { defaultSnapshotEvery } from './keep-snapshots.ts'
import { noFences } from './fences.ts'
import type { Fences } from './fences.ts'
import { knownHostsFile } from './known-hosts.ts'
import { defaultLease } from './lease.ts'
import { lockName } from './lock.ts'
import { VERSION } from './version.ts'

export type CoordinatorSettings = {
  /** The same whenever it is started again: by its name it finds how far it had seen the log. */
  readonly name: string
  readonly address: Omit<LogAddress, 'name'>
  /** On how many servers the streams stand, where this coordinator has to make them; absent: three in a cluster. */
  readonly replicas?: number
  /** It does not run on a log that is less than that. */
  readonly durability: Durability
  readonly rules?: Rules
  readonly fences?: Fences
  /** Where it remembers how far it has seen the log. */
  readonly stateDirectory: string
}

const LOG_PATIENCE_MS = 60_000

/**
 * A coordinator on the real edges. Runs until the signal, or until something stops it.
 *
 * @throws {NameInUse}
 */
export async function coordinatorHere(
  settings: CoordinatorSettings,
  say: Say,
  signal: AbortSignal,
): Promise<void> {
  const unlock = await lockName(settings.name, settings.stateDirectory)
  try {
    await runHere(settings, say, signal)
  } finally {
    await unlock()
  }
}

async function runHere(
  settings: CoordinatorSettings,
  say: Say,
  signal: AbortSignal,
): Promise<void> {
  const { name, address, replicas, durability, rules = defaultRules, fences = noFences } = settings
  const connection = await connect({ ...address, name: `coordinator ${name}` }, systemClock, {
    patienceMs: LOG_PATIENCE_MS,
    signal,
    create: replicas === undefined ? {} : { replicas },
    durability,
  })
  const { log, leases, heartbeats, nc, facts } = connection
  say.info({ log: facts, durability }, 'connected')
  sayChecks(say, findings(facts))
  // What ends this coordinator for another reason than the signal must end its parts as well.
  const stop = new AbortController()
  const both = AbortSignal.any([signal, stop.signal])
  const file = join(settings.stateDirectory, `${token(name)}.watermark`)
  const watermark = await watermarkFile(file, { clock: systemClock, say, signal: both })
  const hostsFile = join(settings.stateDirectory, `${token(name)}.hosts`)
  const knownHosts = await knownHostsFile(hostsFile, say)
  try {
    const coordinator = await coordinate({
      name,
      log,
      leases,
      heartbeats,
      snapshots: await connection.snapshots(),
      snapshotEvery: defaultSnapshotEvery,
      clock: systemClock,
      rules,
      lease: defaultLease,
      fences,
      watermark,
      knownHosts,
      settleMs: defaultSettleMs,
      say,
      signal: both,
    })
    const service = await serve(
      nc,
      { version: VERSION, description: 'Moves running virtual machines between hosts' },
      verbsOf(coordinator),
    )
    try {
      await coordinator.ended
    } finally {
      await service.stop()
    }
  } finally {
    stop.abort()
    await connection.close()
    await watermark.close()
    await knownHosts.close()
  }
}

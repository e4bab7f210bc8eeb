import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { connect } from '@ferry/events/log/connect'
import { watermarkFile } from '@ferry/events/log/watermark-file'
import type { LogAddress } from '@ferry/events/log/connect'
import { serve } from '@ferry/events/log/requests'
import type { Say } from '@ferry/events/say'
import { token } from '@ferry/events/subjects'
import { verbsOf } from './api.ts'
import { coordinate } from './coordinate.ts'
import { defaultRules } from './decide/world.ts'
import type { Rules } from './decide/world.ts'
import { defaultLease } from './lease.ts'
import { VERSION } from './version.ts'

export type CoordinatorSettings = {
  readonly name: string
  readonly address: Omit<LogAddress, 'name'>
  /** On how many servers the streams stand, where this coordinator has to make them. */
  readonly replicas: number
  readonly rules?: Rules
  /** Where it remembers how far it has seen the log. */
  readonly stateDirectory: string
}

const LOG_PATIENCE_MS = 60_000
const SETTLE_MS = 1000

/** A coordinator on the real edges. Runs until the signal, or until something stops it. */
export async function coordinatorHere(
  settings: CoordinatorSettings,
  say: Say,
  signal: AbortSignal,
): Promise<void> {
  const { name, address, replicas, rules = defaultRules } = settings
  const connection = await connect({ ...address, name: `coordinator ${name}` }, systemClock, {
    patienceMs: LOG_PATIENCE_MS,
    signal,
    create: { replicas },
  })
  const { log, leases, heartbeats, nc, server } = connection
  say.info({ server }, 'connected')
  // What ends this coordinator for another reason than the signal must end its parts as well.
  const stop = new AbortController()
  const both = AbortSignal.any([signal, stop.signal])
  try {
    const file = join(settings.stateDirectory, `${token(name)}.watermark.json`)
    const watermark = await watermarkFile(file, { clock: systemClock, say, signal: both })
    const coordinator = await coordinate({
      name,
      log,
      leases,
      heartbeats,
      clock: systemClock,
      rules,
      lease: defaultLease,
      watermark,
      settleMs: SETTLE_MS,
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
  }
}

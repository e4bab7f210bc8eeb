import type { Clock } from '@ferry/events/clock'
import type { Log } from '@ferry/events/log'
import { openWitness } from '@ferry/events/log/witness'
import type { Registers } from '@ferry/events/registers'
import type { Say } from '@ferry/events/say'
import type { Watermark } from '@ferry/events/watermark'
import { filters } from '@ferry/events/subjects'
import type { Driver } from './driver.ts'
import { beat, reportInventory } from './inventory.ts'
import { reportIntruders } from './intruders.ts'
import { journal as makeJournal } from './journal.ts'
import type { HostKey } from './keys.ts'
import { serve } from './serve.ts'
import { settle } from './settle.ts'
import { TRANSFER_VERSION } from './transfer/frames.ts'
import { makePace } from './transfer/pace.ts'
import { openPort } from './transfer/port.ts'
import type { PortOptions } from './transfer/port.ts'
import { VERSION } from './version.ts'
import { makeVoice } from './voice.ts'

/** One host's agent: it obeys the commands for this host, and reports what happens on it. */
export type AgentEdges = {
  readonly host: string
  readonly log: Log
  readonly heartbeats: Registers
  readonly clock: Clock
  readonly say: Say
  readonly driver: Driver
  readonly key: HostKey
  readonly watermark: Watermark
  readonly transfers: Pick<PortOptions, 'listen' | 'address'>
  /** For all images that leave this host together; absent: no limit. */
  readonly bandwidthBytesPerSecond?: number
  readonly signal: AbortSignal
}

/** A transfer that nobody has come for is worth nothing after this. */
const TRANSFER_EXPIRES_MS = 60_000

/** Runs until the signal. Guests stay as they are when it ends, and the next agent finds them. */
export async function runAgent(edges: AgentEdges): Promise<void> {
  const { host, log, heartbeats, clock, say, driver, key, bandwidthBytesPerSecond, signal } = edges
  const said = async () => {
    const journal = makeJournal()
    for await (const entry of log.read({ after: 0, subject: filters.factsFrom(host), signal }))
      journal.note(entry)
    return journal
  }
  // Also on a log that may have lost its tail: an inventory says as of which of these facts it was taken.
  let journal = await said()
  const intruders = reportIntruders({ host, log, clock, say, signal })
  const port = await openPort({
    ...edges.transfers,
    expiresAfterMs: TRANSFER_EXPIRES_MS,
    clock,
    refused: intruders,
  })
  const pace = makePace(clock, bandwidthBytesPerSecond)
  const facts = {
    address: port.address,
    key: key.public,
    agentVersion: VERSION,
    transferVersion: TRANSFER_VERSION,
  }
  const upTo = () => journal.upTo()
  const inventory = { host, log, heartbeats, clock, say, driver, facts, upTo, signal }
  const reporter = reportInventory(inventory)
  say.info(
    { host, address: port.address, hypervisor: driver.hypervisor.hypervisor },
    'the agent is ready',
  )
  try {
    const witness = await openWitness({
      ...edges,
      me: { host },
      settleMs: 0,
      recovered: (recovery) => settle(recovery, { host, driver, say }),
    })
    witness.onChange(reporter.again)
    const obey = async () => {
      while (!signal.aborted) {
        const stopped = await witness.well(signal)
        // As an agent that was started anew: with nothing but the log as it is now.
        const now = AbortSignal.any([signal, stopped])
        journal = await said()
        const voice = makeVoice({ host, log: witness.log, clock, say, signal: now })
        const hands = { host, log: witness.log, clock, say, driver, port, key, voice, pace }
        await serve(hands, journal, witness.recoveredAt(), now)
      }
    }
    await Promise.all([
      obey().catch((error: unknown) => {
        if (!signal.aborted) throw error
      }),
      witness.watching,
      reporter.reporting,
      beat(inventory),
    ])
  } finally {
    await port.close()
    await driver.close()
  }
}

import type { Clock } from '@ferry/events/clock'
import type { Log } from '@ferry/events/log'
import type { Registers } from '@ferry/events/registers'
import type { Say } from '@ferry/events/say'
import { filters } from '@ferry/events/subjects'
import type { Driver } from './driver.ts'
import { beat, reportInventory } from './inventory.ts'
import { reportIntruders } from './intruders.ts'
import { journal as makeJournal } from './journal.ts'
import type { HostKey } from './keys.ts'
import { serve } from './serve.ts'
import { endStaleCopies } from './stale.ts'
import { TRANSFER_VERSION } from './transfer/frames.ts'
import { makePace } from './transfer/pace.ts'
import { openPort } from './transfer/port.ts'
import type { PortOptions } from './transfer/port.ts'
import type { Wire } from './transfer/wire.ts'
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
  readonly wire: Wire
  readonly transfers: Pick<PortOptions, 'listen' | 'address'>
  /** So many random bytes, for the ids and keys of transfers. */
  readonly random: (bytes: number) => Uint8Array
  /** For all images that leave this host together; absent: no limit. */
  readonly bandwidthBytesPerSecond?: number
  readonly signal: AbortSignal
}

/** Runs until the signal. Guests stay as they are when it ends, and the next agent finds them. */
export async function runAgent(edges: AgentEdges): Promise<void> {
  const { host, log, heartbeats, clock, say, driver, key, wire, random, signal } = edges
  for (const fact of await endStaleCopies({ host, log, driver, clock, say }))
    await log.append(fact, { signal })
  const journal = makeJournal()
  for await (const entry of log.read({ after: 0, subject: filters.factsFrom(host), signal }))
    journal.note(entry)

  const intruders = reportIntruders({ host, log, clock, say, signal })
  const port = await openPort({
    ...edges.transfers,
    wire,
    clock,
    refused: intruders,
  })
  const voice = makeVoice({ host, log, clock, say, signal })
  const pace = makePace(clock, edges.bandwidthBytesPerSecond)
  const facts = {
    address: port.address,
    key: key.public,
    agentVersion: VERSION,
    transferVersion: TRANSFER_VERSION,
  }
  const hands = { host, log, clock, say, driver, wire, port, key, random, voice, pace }
  const inventory = { host, log, heartbeats, clock, say, driver, facts, upTo: journal.upTo, signal }
  say.info(
    { host, address: port.address, hypervisor: driver.hypervisor.hypervisor },
    'the agent is ready',
  )
  try {
    await Promise.all([serve(hands, journal, signal), reportInventory(inventory), beat(inventory)])
  } finally {
    await port.close()
    await driver.close()
  }
}

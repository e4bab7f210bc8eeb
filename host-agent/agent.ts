import { setMaxListeners } from 'node:events'
import type { EventOf } from '@ferry/schemas/event'
import { DECISIONS_VERSION, firstVersion } from '@ferry/schemas/versions'
import type { Versions } from '@ferry/schemas/versions'
import type { Clock } from '@ferry/events/clock'
import type { Log } from '@ferry/events/log'
import { LogLostTail, openWitness } from '@ferry/events/log/witness'
import type { Registers } from '@ferry/events/registers'
import type { Say } from '@ferry/events/say'
import type { Watermark } from '@ferry/events/watermark'
import { filters } from '@ferry/events/subjects'
import type { Driver } from './driver.ts'
import { beat, isKnownBy, reportInventory } from './inventory.ts'
import type { Reporter } from './inventory.ts'
import { reportIntruders } from './intruders.ts'
import { journal as makeJournal } from './journal.ts'
import type { Journal } from './journal.ts'
import { carryOut } from './duties.ts'
import type { HostKey } from './keys.ts'
import { isMove } from './move.ts'
import type { Movers } from './mover/movers.ts'
import { clearOrphans } from './orphans.ts'
import { serve } from './serve.ts'
import type { Does } from './serve.ts'
import { settle } from './settle.ts'
import { endStaleCopies, nothingStale } from './stale.ts'
import { transferVersions as ownVersions } from './transfer/frames.ts'
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
  readonly watermark: Watermark
  readonly wire: Wire
  readonly transfers: Pick<PortOptions, 'listen' | 'address'>
  /** So many random bytes, for the ids and keys of transfers. */
  readonly random: (bytes: number) => Uint8Array
  /** For all images that leave this host together; absent: no limit. */
  readonly bandwidthBytesPerSecond?: number
  /** Processes that move guests and outlive the agent; absent: it moves them itself. */
  readonly movers?: Movers
  /** Of the stream between agents; absent: all that this release knows. */
  readonly transferVersions?: Versions
  readonly signal: AbortSignal
}

/** A command that the agent before did not finish is delivered again within 2 s (`serve.ts`); a source waits for 10 s. */
const UNKNOWN_WAIT_MS = 5000

/**
 * Runs until the signal. Guests stay as they are when it ends, and the next agent finds them.
 *
 * First the log is compared with what was seen of it, then the copies here with the log, and only then is anybody told
 * of them or obeyed; one with a new key says so before it obeys. On a log that has lost its tail nothing is ended, and
 * everybody is told of everything.
 */
export async function runAgent(edges: AgentEdges): Promise<void> {
  const { host, log, heartbeats, clock, say, driver, key, wire, random, movers, signal } = edges
  const { transferVersions = ownVersions } = edges
  let serving: Promise<void> = Promise.resolve()
  let stale = nothingStale
  /** I1: what a hypervisor was told on a log that is not trusted any more may still happen, and is waited for. */
  const stopAll = async () => {
    await Promise.all([serving.catch(() => {}), stale.over])
    await movers?.stopAll()
  }
  const witness = await openWitness({
    ...edges,
    me: { host },
    settleMs: 0,
    recovered: async (recovery) => {
      await stopAll()
      await settle(recovery, { host, driver, say })
    },
  })
  await witness.judged
  let trust = witness.isWell() ? await witness.well(signal) : undefined
  let reporter: Reporter | undefined
  const emptyJournal = () => makeJournal((position) => reporter?.noted(position))
  const readJournal = async (facts = emptyJournal()) => {
    for await (const entry of log.read({ after: 0, subject: filters.factsFrom(host), signal }))
      facts.note(entry)
    return facts
  }
  const left = { host, log: witness.log, driver, clock, say }
  /** What a host says of a copy that was left here stands in the log as soon as that has ended. */
  const appendTo =
    (facts: Journal, until: AbortSignal) =>
    async (event: EventOf<'TargetCleared'>): Promise<void> => {
      const { position } = await witness.log.append(event, { signal: until })
      const message = { is: 'event', event } as const
      facts.note({ position, storedAt: clock.now(), subject: '', message })
    }
  const endStale = async (facts: Journal, trusted: AbortSignal) => {
    const now = AbortSignal.any([signal, trusted])
    try {
      stale = await endStaleCopies({ ...left, append: appendTo(facts, now), signal: now })
    } catch (error) {
      // It will be begun again when that has been answered.
      if (!(error instanceof LogLostTail)) throw error
    }
  }
  const begin = async () => {
    const facts = emptyJournal()
    if (trust !== undefined) await endStale(facts, trust)
    return readJournal(facts)
  }
  const tidy = async () => {
    const stop = async (vm: string) => movers?.stop(vm)
    try {
      await clearOrphans({ ...left, stop, append: appendTo(journal, signal), signal })
    } catch (error) {
      if (!signal.aborted) say.warn({ err: error }, 'what was left here is left to the next agent')
    }
  }
  let journal = await begin()

  const intruders = reportIntruders({ host, log, clock, say, signal })
  const port = await openPort({
    ...edges.transfers,
    wire,
    clock,
    refused: intruders,
    unknownWaitMs: UNKNOWN_WAIT_MS,
  })
  movers?.open(port)
  const pace = makePace(clock, edges.bandwidthBytesPerSecond)
  const facts = {
    address: port.address,
    key: key.public,
    agentVersion: VERSION,
    transferVersion: transferVersions.highest,
    definitionVersions: driver.definitions ?? firstVersion,
    decisionsVersion: DECISIONS_VERSION,
  }
  // While the log is not trusted nothing is noted, and a fact that was on its way may have come to stand there.
  const upTo = async () => (witness.isWell() ? journal : await readJournal()).upTo()
  // A recovery relies on what is said here.
  const stopped = async () => {
    const alarm = witness.stoppedAt()
    if (alarm === undefined) return undefined
    await stopAll()
    return alarm
  }
  const inventory = { host, log, heartbeats, clock, say, driver, facts, upTo, stopped, signal }
  reporter = reportInventory(inventory)
  witness.onChange(reporter.again)
  say.info(
    { host, address: port.address, hypervisor: driver.hypervisor.hypervisor },
    'the agent is ready',
  )
  const obey = async () => {
    // What it would answer before that, would be tried again with the key that it does not have any more.
    if (!(await isKnownBy(log, host, key.public))) await reporter.reported
    while (!signal.aborted) {
      if (trust === undefined || trust.aborted) {
        // As an agent that was started anew: with nothing but the log as it is now.
        trust = await witness.well(signal)
        journal = await begin()
      }
      // Not before the host was reported: what is said of an attempt that is over lets the next one begin.
      await tidy()
      const now = AbortSignal.any([signal, trust])
      // While the log is silent every word of this host waits on it: any number, and no leak.
      setMaxListeners(0, now)
      const voice = makeVoice({ host, log: witness.log, clock, say, signal: now })
      const tools = { host, log: witness.log, clock, say, driver, wire, port, key, random, pace }
      const hands = { ...tools, transferVersions, voice, remembered: witness.remembered }
      const does: Does = async (command, stop, dial) => {
        // I1: it may run elsewhere.
        await stale.ended(command.vm, stop)
        if (movers !== undefined && isMove(command)) return movers.carryOut(command, stop, dial)
        // One of the agent before may still be at it, and of each guest one command is carried out at a time.
        await movers?.stop(command.vm)
        return carryOut(command, hands, stop, dial)
      }
      serving = serve({ hands, does, journal, recoveredAt: witness.recoveredAt(), signal: now })
      await serving
    }
  }
  const obeyToTheEnd = async () => {
    try {
      await obey()
    } catch (error) {
      if (!signal.aborted) throw error
    } finally {
      // Nobody acts on a guest any more, and a hypervisor that is busy must not keep this agent from ending.
      await driver.close()
    }
  }
  try {
    await Promise.all([obeyToTheEnd(), witness.watching, reporter.reporting, beat(inventory)])
  } finally {
    movers?.letGo()
    await port.close()
  }
}

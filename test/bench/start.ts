import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { parseArgs } from 'node:util'
import { startNatsServer } from '@ferry/coordinator/embedded/nats-server'
import { startFrom } from '@ferry/coordinator/start-from'
import { systemClock as clock } from '@ferry/events/clock'
import { isEvent } from '@ferry/events/entry'
import type { Entry } from '@ferry/events/entry'
import { replay } from '@ferry/events/fleet'
import { connect } from '@ferry/events/log/connect'
import { memoryRegisters } from '@ferry/events/log/in-memory-registers'
import { registerSnapshots } from '@ferry/events/log/register-snapshots'
import { snapshotOf } from '@ferry/events/snapshot'
import type { Snapshots } from '@ferry/events/snapshots'
import { silent } from '../fleet-in-process.ts'
import { appendAll, longLog } from '../long-log.ts'
import { median } from './figures.ts'
import { machine } from './machine.ts'

/**
 * `node --import tsx test/bench/start.ts [--entries N] [--behind N] [--rounds N]`: how long a coordinator takes to fold a
 * log of so many entries on a real nats-server, from a snapshot that stands so many entries behind the head and from
 * the first entry, by turns; and what writing one costs.
 */
const { values } = parseArgs({
  options: {
    entries: { type: 'string', default: '100000' },
    behind: { type: 'string', default: '5000' },
    rounds: { type: 'string', default: '5' },
  },
})
const [entries, behind, rounds] = [values.entries, values.behind, values.rounds].map(Number) as [
  number,
  number,
  number,
]

const dataDirectory = await mkdtemp(join(tmpdir(), 'ferry-start-'))
const server = await startNatsServer({ dataDirectory })
const connection = await connect({ servers: [server.url], name: 'bench' }, clock, {
  create: { replicas: 1 },
})
const { log } = connection
try {
  const events = longLog(entries, 1000)
  await appendAll(log, upTo(events, entries - behind))
  const kept = await connection.snapshots()
  const fleet = await replay(log.read({ after: 0 }))
  let last: Entry | undefined
  for await (const entry of log.read({ after: fleet.position - 1 })) last = entry
  if (last === undefined || !isEvent(last)) throw new Error('the log does not end with an event')
  const end = last
  const loop = monitorEventLoopDelay({ resolution: 1 })
  loop.enable()
  const made = await timed(() => snapshotOf(fleet, end, { fold: kept.fold, clock }))
  const written = await timed(() => kept.write(made.value))
  loop.disable()
  console.log(
    `a snapshot of ${fleet.past.size + fleet.guests.size} migrations: ${(made.value.length / 1e6).toFixed(1)} MB, made in ${made.ms} ms, written in ${written.ms} ms; the loop stood still for ${Math.round(loop.max / 1e6)} ms at most`,
  )
  await appendAll(log, events)

  const none = registerSnapshots(memoryRegisters(clock), kept.fold)
  const start = async (snapshots: Snapshots) => {
    const { signal } = new AbortController()
    const read = (after: number) => log.read({ after })
    return timed(() => startFrom({ snapshots, log, clock, say: silent, signal, read }))
  }
  const ways = { 'from the first entry': none, 'from a snapshot': kept }
  const times = new Map<string, number[]>()
  for (let round = 0; round <= rounds; round++)
    for (const [way, snapshots] of Object.entries(ways)) {
      const { ms, value } = await start(snapshots)
      if (value.fleet.position !== entries) throw new Error(`it ended at ${value.fleet.position}`)
      if (round > 0) times.set(way, [...(times.get(way) ?? []), ms])
    }
  console.log(
    `${entries} entries, the snapshot ${behind} behind, ${rounds} rounds after one that is not counted`,
  )
  for (const [way, all] of times)
    console.log(`${way}: ${median(all)} ms (${Math.min(...all)}–${Math.max(...all)})`)
  console.log(await machine())
} finally {
  await connection.close()
  await server.stop()
  await rm(dataDirectory, { recursive: true })
}

async function timed<T>(work: () => Promise<T>): Promise<{ ms: number; value: T }> {
  const began = clock.elapsed()
  const value = await work()
  return { ms: Math.round(clock.elapsed() - began), value }
}

/** Leaves what is behind for later. */
function* upTo<T>(all: Iterator<T>, count: number): Generator<T, void, undefined> {
  for (let taken = 0; taken < count; taken++) {
    const next = all.next()
    if (next.done === true) return
    yield next.value
  }
}

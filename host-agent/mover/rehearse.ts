import { randomBytes } from 'node:crypto'
import type { Event, EventOf } from '@ferry/schemas/event'
import { timestamp } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { memoryLog } from '@ferry/events/log/in-memory'
import type { Say } from '@ferry/events/say'
import { simulatedDriver } from '../drivers/simulated/driver.ts'
import { carryOut } from '../duties.ts'
import type { Hands } from '../hands.ts'
import type { HostKey } from '../keys.ts'
import { transferVersions } from '../transfer/frames.ts'
import { makePace } from '../transfer/pace.ts'
import { openPort } from '../transfer/port.ts'
import { tlsWire } from '../transfer/tls-wire.ts'
import { makeVoice } from '../voice.ts'
import type { Command, Fact } from '../voice.ts'

type Edges = { readonly key: HostKey; readonly clock: Clock; readonly signal: AbortSignal }

/**
 * A mover that is kept at hand moves a small simulated guest from itself to itself, by the code that will move the real one.
 * What runs for the first time takes tens of times as long (it is compiled, shapes are made into checks, OpenSSL and the
 * curve set up theirs), and a guest would be paused meanwhile. Nothing of it leaves this process but a connection to
 * itself.
 *
 * It does so twice: V8 compiles a second time what has been used often, the curve for 15 to 30 ms of a processor, and would
 * do that while it carries out its order.
 *
 * @throws whatever goes wrong; the mover is none the worse for it.
 */
export async function rehearse(edges: Edges): Promise<void> {
  for (let time = 1; time <= TIMES; time++) await rehearseOnce(edges)
}

const TIMES = 2

async function rehearseOnce(edges: Edges): Promise<void> {
  const { key, clock } = edges
  const over = new AbortController()
  const signal = AbortSignal.any([edges.signal, over.signal])
  const log = memoryLog(clock)
  const listen = { host: '127.0.0.1', port: 0 }
  const port = await openPort({ wire: tlsWire, listen, clock, refused: () => {} })
  const handsOf = (host: string): Hands => {
    const guests = new Map()
    const definitionOf = async () => ({ memoryMiB: MEMORY_MIB, pagesPerSecond: 0 })
    const shared = { log, clock, say: silent, signal, host }
    return {
      ...shared,
      driver: simulatedDriver({ guests, memoryBytes: MEMORY_MIB * 2 ** 20, definitionOf }, clock),
      port,
      key,
      wire: tlsWire,
      random: randomBytes,
      transferVersions,
      voice: makeVoice(shared),
      pace: makePace(clock),
      remembered: async () => {},
    }
  }
  const [source, target] = [handsOf('source'), handsOf('target')]
  const order = async <Name extends Fact['type']>(
    hands: Hands,
    command: Command,
    answer: Name,
  ): Promise<EventOf<Name>> => {
    await log.append(command)
    const fact = await carryOut(command, hands, signal)
    if (fact === undefined || !isNamed(fact, answer)) throw new Error(`it said ${fact?.type}`)
    await log.append(fact)
    return fact
  }
  const about = { vm: 'guest', migration: 'rehearsal', attempt: 1 }
  const writer = { coordinator: 'rehearsal' }
  const named = <Name extends Command['type']>(type: Name) => ({
    ...about,
    type,
    id: type,
    writer,
    time: timestamp(clock.now()),
  })
  const admission = 0
  try {
    await source.driver.start(about.vm)
    const { data: begun } = await order(
      source,
      {
        ...named('Begin'),
        data: { host: 'source', admission, target: 'target', targetKey: key.public, policy },
      },
      'MigrationBegun',
    )
    const { data: prepared } = await order(
      target,
      {
        ...named('Prepare'),
        data: { ...begun, host: 'target', source: 'source', sourceKey: key.public },
      },
      'TargetPrepared',
    )
    const { transfer } = prepared
    await Promise.all([
      order(
        source,
        {
          ...named('Perform'),
          data: { ...prepared, host: 'source', target: 'target', targetKey: key.public, policy },
        },
        'Performed',
      ),
      order(
        target,
        {
          ...named('Finish'),
          data: { host: 'target', admission, source: 'source', transfer },
        },
        'TargetRunning',
      ),
    ])
  } finally {
    over.abort()
    await port.close()
  }
}

const MEMORY_MIB = 1
const policy = { downtimeMs: 1000, autoConverge: false, timeoutMs: 10_000, attempts: 1 }

const isNamed = <Name extends Event['type']>(event: Event, name: Name): event is EventOf<Name> =>
  event.type === name

const nothing = () => {}
const silent: Say = { debug: nothing, info: nothing, warn: nothing, error: nothing }

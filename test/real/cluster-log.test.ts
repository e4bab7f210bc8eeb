import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { systemClock } from '@ferry/events/clock'
import { guardsInCluster } from '@ferry/events/durability'
import { isEvent } from '@ferry/events/entry'
import { Conflict, contest, isValidAfter } from '@ferry/events/log'
import type { Log } from '@ferry/events/log'
import { connect } from '@ferry/events/log/connect'
import type { Connection } from '@ferry/events/log/connect'
import { requested, sourcePaused } from '../events/examples.ts'
import { until } from '../until.ts'
import { leaderOf, startCluster, whole } from './cluster.ts'
import type { Cluster } from './cluster.ts'

/** Writers on different servers of one cluster, who want the same place in the log at the same time. */
const test = suite('a log on three servers')

/** A leader that was killed is missed, and another one found, within ten seconds. */
const PATIENCE_MS = 60_000

let folder: string
let cluster: Cluster
let connections: Connection[] = []
let any: Connection
test.before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ferry-cluster-'))
  cluster = await startCluster(folder, 3)
  const open = (url: string) =>
    connect({ servers: [url], name: 'writer' }, systemClock, {
      patienceMs: PATIENCE_MS,
      create: {},
    })
  connections = await Promise.all(cluster.urls.map(open))
  const [first] = connections
  if (first === undefined) throw new Error('nobody is connected')
  any = first
  await whole(any)
})
test.after(async () => {
  await Promise.all(connections.map(({ close }) => close()))
  await cluster.close()
  await rm(folder, { recursive: true })
})

/** Two on one server, one on each of the others. */
const contenders = (): Log[] => [...connections, any].map(({ log }) => log)

test('is made on all three, where nobody says otherwise', () => {
  const { replicas, current, cluster: name } = any.facts
  assert.equal({ replicas, name }, { replicas: 3, name: 'ferry' })
  assert.ok(current >= 2)
})

const ROUNDS = 100
const MOST_ROUNDS = 1000

test("the server's own guard lets several in at once before 2.9.21", async () => {
  const vm = 'guarded'
  const isFirst = async (log: Log, id: string, expect: number): Promise<boolean> => {
    try {
      await log.append(requested({ vm, id, after: expect }), { expect, patienceMs: PATIENCE_MS })
      return true
    } catch (error) {
      if (error instanceof Conflict) return false
      throw error
    }
  }
  // The first message on a subject is guarded well everywhere.
  let { position: head } = await any.log.append(requested({ vm, id: 'guarded', after: 0 }))
  let rounds = 0
  let broken = 0
  while (rounds < ROUNDS || (broken === 0 && rounds < MOST_ROUNDS)) {
    rounds += 1
    const firsts = await Promise.all(
      contenders().map((log, nth) => isFirst(log, `guarded-${rounds}-${nth}`, head)),
    )
    if (firsts.filter(Boolean).length > 1) broken += 1
    head = (await any.log.last(`ferry.decision.${vm}`))?.position ?? head
  }
  const { version } = any.facts
  console.log(`  nats-server ${version}: in ${broken} of ${rounds} rounds several were told yes`)
  if (guardsInCluster(version)) assert.is(broken, 0)
  else assert.ok(broken > 0)
})

test('a contest has one winner in every round, also while the leader is killed, and nothing is lost or doubled', async () => {
  const vm = 'contested'
  const winners: string[] = []
  let after = 0
  const race = async (round: string) => {
    const contests = await Promise.all(
      contenders().map((log, nth) =>
        contest(log, requested({ vm, id: `contested-${round}-${nth}`, after }), {
          patienceMs: PATIENCE_MS,
        }),
      ),
    )
    const won = contests.filter((each) => each.won)
    assert.is(won.length, 1, `round ${round}`)
    const [{ winner }] = won as [(typeof won)[0]]
    for (const each of contests) assert.equal(each.winner, winner)
    winners.push(winner.message.event.id)
    after = winner.position
  }
  /** Unguarded facts that come all the time: each must stand there once. */
  const stop = new AbortController()
  const facts: string[] = []
  const reporting = Promise.all(
    connections.map(async ({ log }, nth) => {
      for (let number = 0; !stop.signal.aborted; number += 1) {
        const id = `fact-${nth}-${number}`
        await log.append(sourcePaused({ vm, id }), { patienceMs: PATIENCE_MS })
        facts.push(id)
      }
    }),
  )
  try {
    for (let round = 1; round <= 3 * ROUNDS; round += 1) {
      const racing = race(`${round}`)
      const leader = round === ROUNDS ? await leaderOf(any) : undefined
      if (leader !== undefined) {
        const killedAt = systemClock.elapsed()
        await cluster.stop(leader, 'SIGKILL')
        await racing
        await race(`${round}, after the kill`)
        const ms = Math.round(systemClock.elapsed() - killedAt)
        console.log(`  the leader was killed, and appends were answered again after ${ms} ms`)
        await cluster.start(leader)
      }
      await racing
    }
  } finally {
    stop.abort()
  }
  await reporting
  await whole(any)

  for (const { log } of connections) {
    const valid: string[] = []
    const told: string[] = []
    let head = 0
    let voids = 0
    for await (const entry of log.read({ after: 0 })) {
      if (!isEvent(entry)) throw new Error(`position ${entry.position} cannot be read`)
      const { event } = entry.message
      if (entry.subject === `ferry.decision.${vm}`) {
        if (isValidAfter(entry, head)) {
          valid.push(event.id)
          head = entry.position
        } else voids += 1
      } else if (event.type === 'SourcePaused') told.push(event.id)
    }
    assert.equal(valid, winners)
    assert.equal(told.toSorted(), facts.toSorted())
    if (log === any.log)
      console.log(`  ${valid.length} won, ${voids} void, ${told.length} facts beside them`)
  }
})

test('a watch goes on when the server that kept it is killed', async () => {
  const stop = new AbortController()
  const bucket = 'KV_ferry_heartbeats'
  const values = new Map<number, string>()
  const watching = connections.map(async ({ heartbeats }, nth) => {
    for await (const { value } of heartbeats.watch('watched', stop.signal)) values.set(nth, value)
  })
  let beats = 0
  const beat = async () => {
    beats += 1
    await any.heartbeats.put('watched.rack1', `${beats}`).catch(() => {})
  }
  const isHeard = (from: number) => async () => {
    await beat()
    const heard = [...values.values()].filter((value) => Number(value) >= from)
    return heard.length === connections.length
  }
  try {
    await until('all to hear', isHeard(1))
    const leader = await leaderOf(any, bucket)
    await cluster.stop(leader, 'SIGKILL')
    await leaderOf(any, bucket)
    const ledAt = systemClock.elapsed()
    await until('all to hear again', isHeard(beats + 1), PATIENCE_MS)
    const ms = Math.round(systemClock.elapsed() - ledAt)
    console.log(`  heard again ${ms} ms after there was a leader again`)
    await cluster.start(leader)
  } finally {
    stop.abort()
    await Promise.all(watching)
  }
})

test.run()

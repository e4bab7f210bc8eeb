import { listenToHeartbeats } from '@ferry/coordinator/heartbeats'
import { memoryKnownHosts } from '@ferry/coordinator/known-hosts'
import type { KnownHosts } from '@ferry/coordinator/known-hosts'
import { systemClock, timestamp } from '@ferry/events/clock'
import { memoryRegisters } from '@ferry/events/log/in-memory-registers'
import type { Registers } from '@ferry/events/registers'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../until.ts'

const SOON_MS = 10_000

/** A coordinator's ears, for the time of some work. */
async function listening(
  registers: { heartbeats: Registers; kept: Registers; known?: KnownHosts },
  work: (hosts: ReturnType<typeof listenToHeartbeats>) => Promise<void>,
): Promise<void> {
  const over = new AbortController()
  const edges = { name: 'c1', known: memoryKnownHosts(), ...registers }
  const hosts = listenToHeartbeats(edges, systemClock, () => {}, over.signal)
  try {
    await work(hosts)
  } finally {
    over.abort()
    await hosts.watching
  }
}

test('a host that was heard once is known to whoever coordinates next, though its heartbeat has expired', async () => {
  const kept = memoryRegisters(systemClock)
  const heartbeats = memoryRegisters(systemClock)
  await listening({ heartbeats, kept }, async ({ alive }) => {
    await heartbeats.put('heartbeat.rack1', timestamp(systemClock.now()))
    await until('it to be heard', async () => alive().has('rack1'), SOON_MS)
    const isKept = async () => (await kept.read('known.rack1')) !== undefined
    await until('it to be kept', isKept, SOON_MS)
  })
  const known = memoryKnownHosts()
  const next = { heartbeats: memoryRegisters(systemClock), kept, known }
  await listening(next, async ({ alive }) => {
    await until('it to be known', async () => known.names().has('rack1'), SOON_MS)
    assert.not.ok(alive().has('rack1'))
  })
})

test('a host that the log has forgotten is told to it again by whoever remembers it', async () => {
  const kept = memoryRegisters(systemClock)
  const heartbeats = memoryRegisters(systemClock)
  await listening({ heartbeats, kept, known: memoryKnownHosts(['rack1']) }, async ({ alive }) => {
    const isKept = async () => (await kept.read('known.rack1')) !== undefined
    await until('it to be kept', isKept, SOON_MS)
    assert.not.ok(alive().has('rack1'))
  })
})

test('a write that gets lost is made again with the next beat', async () => {
  const kept = memoryRegisters(systemClock)
  const heartbeats = memoryRegisters(systemClock)
  let lost = 0
  const deaf: Registers = {
    ...kept,
    write: (...words) => {
      lost += 1
      return lost === 1 ? Promise.reject(new Error('no answer')) : kept.write(...words)
    },
  }
  await listening({ heartbeats, kept: deaf }, async () => {
    await heartbeats.put('heartbeat.rack1', '1')
    await until('the first write to be lost', async () => lost === 1, SOON_MS)
    await heartbeats.put('heartbeat.rack1', '2')
    const isKept = async () => (await kept.read('known.rack1')) !== undefined
    await until('it to be kept', isKept, SOON_MS)
  })
})

test('who hears nothing says so, and begins to count when it hears again', async () => {
  const kept = memoryRegisters(systemClock)
  const heartbeats = memoryRegisters(systemClock)
  let isAway = false
  const flaky: Registers = {
    ...heartbeats,
    put: (...words) => (isAway ? Promise.reject(new Error('no answer')) : heartbeats.put(...words)),
  }
  await listening({ heartbeats: flaky, kept }, async ({ listenedMs }) => {
    assert.is(listenedMs(), 0)
    await until('it to have listened', async () => listenedMs() > 1500, SOON_MS)
    isAway = true
    await until('it to hear nothing', async () => listenedMs() === 0, SOON_MS)
    isAway = false
    await until('it to hear again', async () => listenedMs() > 0, SOON_MS)
    assert.ok(listenedMs() < 1500, 'the time before counts')
  })
})

test.run()

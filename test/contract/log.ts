import type { Event } from '@ferry/schemas/event'
import { encode } from '@ferry/schemas/cloud-event'
import { systemClock, within } from '@ferry/events/clock'
import type { Entry } from '@ferry/events/entry'
import { Conflict, contest } from '@ferry/events/log'
import type { Log } from '@ferry/events/log'
import { verdictOn } from '@ferry/events/verdict'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { cancelled, committed, requested, sourcePaused } from '../events/examples.ts'

/** The promises of a Log. Each test works on guests and migrations of its own, so one server serves them all. */
export type OpenLog = {
  readonly log: Log
  /** A second writer, as another process would be. */
  readonly other: Log
  /** Raw text on a subject, as a stranger with a connection could send it. */
  readonly inject: (subject: string, body: string) => Promise<void>
  readonly close: () => Promise<void>
}

export function logContract(name: string, open: () => Promise<OpenLog>): void {
  const test = suite(`a log ${name}`)
  let opened: OpenLog
  test.before(async () => {
    opened = await open()
  })
  test.after(async () => opened.close())

  test('stores an event once, however often it is sent', async () => {
    const { log } = opened
    const event = sourcePaused({ id: unique() })
    const first = await log.append(event)
    const again = await log.append(event)
    assert.is(again.position, first.position)
  })

  test('turns an append away when something stands behind what it expects', async () => {
    const { log } = opened
    const vm = unique()
    const { position } = await log.append(requested({ vm, id: unique() }), { expect: 0 })
    try {
      await log.append(requested({ vm, id: unique() }), { expect: 0 })
      assert.unreachable('the second append expected an empty subject')
    } catch (error) {
      assert.instance(error, Conflict)
    }
    await log.append(requested({ vm, id: unique() }), { expect: position })
  })

  test('gives back what was appended, whole', async () => {
    const { log } = opened
    const event = requested({ vm: unique('a guest. with *odd* name>'), id: unique() })
    const { position } = await log.append(event)
    const entries = await collect(log.read({ after: position - 1 }))
    const entry = entries.find((each) => each.position === position)
    assert.equal(entry?.message, { is: 'event', event })
    assert.ok(Math.abs((entry?.storedAt ?? 0) - Date.now()) < 60_000)
  })

  test('reads what stands on a subject, up to the head, and ends', async () => {
    const { log } = opened
    const vm = unique()
    const events = [1, 2, 3].map(() => requested({ vm, id: unique() }))
    for (const event of events) await log.append(event)
    const read = await collect(log.read({ after: 0, subject: `ferry.decision.${vm}` }))
    assert.equal(
      ids(read),
      events.map((event) => event.id),
    )
    assert.equal(await collect(log.read({ after: 0, subject: `ferry.decision.${unique()}` })), [])
  })

  test('finds the next and the last entry on a subject', async () => {
    const { log } = opened
    const vm = unique()
    const subject = `ferry.decision.${vm}`
    assert.is(await log.next(subject, 0), undefined)
    assert.is(await log.last(subject), undefined)
    const first = await log.append(requested({ vm, id: unique() }))
    const second = await log.append(requested({ vm, id: unique() }))
    assert.is((await log.next(subject, 0))?.position, first.position)
    assert.is((await log.next(subject, first.position))?.position, second.position)
    assert.is(await log.next(subject, second.position), undefined)
    assert.is((await log.last(subject))?.position, second.position)
    assert.ok((await log.head()) >= second.position)
  })

  test('a follower gets everything from where it was told to, in order, then what comes', async () => {
    const { log, other } = opened
    const vm = unique()
    const subject = `ferry.decision.${vm}`
    const events = Array.from({ length: 30 }, () => requested({ vm, id: unique() }))
    const before = events.slice(0, 10)
    for (const event of before) await log.append(event)
    const stop = new AbortController()
    const following = take(log.follow({ after: 0, subject, signal: stop.signal }), 30)
    for (const event of events.slice(10)) await other.append(event)
    const seen = await within(systemClock, 20_000, 'thirty entries', following)
    stop.abort()
    assert.equal(
      ids(seen),
      events.map((event) => event.id),
    )
  })

  test('what is malformed, forged or unknown is shown as that, and stops nobody', async () => {
    const { log, inject } = opened
    const vm = unique()
    const subject = `ferry.fact.rack1.${vm}.SourcePaused`
    const forged = sourcePaused({ vm, id: unique(), writer: { host: 'rack2' } })
    await inject(subject, 'not even JSON')
    await inject(subject, encode(forged))
    await inject(subject, encode(forged).replace('SourcePaused.v1', 'SourcePaused.v9'))
    const honest = sourcePaused({ vm, id: unique() })
    await log.append(honest)
    const entries = await collect(log.read({ after: 0, subject }))
    assert.equal(
      entries.map((entry) => entry.message.is),
      ['void', 'void', 'unknown', 'event'],
    )
  })

  test('delivers again what nobody was done with, and nothing that somebody was done with', async () => {
    const { log } = opened
    const vm = unique()
    const subject = `ferry.decision.${vm}`
    const [kept, dropped] = [requested({ vm, id: unique() }), requested({ vm, id: unique() })]
    const stop = new AbortController()
    const receiver = { durable: unique(), subject, ackWaitMs: 400, signal: stop.signal }
    await log.append(kept)
    await log.append(dropped)
    const seen: string[] = []
    await within(
      systemClock,
      20_000,
      'a second delivery',
      (async () => {
        for await (const { entry, done } of log.deliveries(receiver)) {
          const id = idOf(entry)
          seen.push(id)
          if (id === kept.id || seen.filter((each) => each === id).length === 2) done()
          if (seen.length === 3) break
        }
      })(),
    )
    stop.abort()
    assert.equal(seen, [kept.id, dropped.id, dropped.id])
  })

  test('whoever is told to stop ends, at whatever moment of beginning to listen that is', async () => {
    const { log } = opened
    const vm = unique()
    const stopped = async (afterTurns: number) => {
      const stop = new AbortController()
      const receiver = { durable: vm, subject: `ferry.fact.*.${vm}.*`, ackWaitMs: 1000 }
      const listening = collect(log.deliveries({ ...receiver, signal: stop.signal }))
      for (let turn = 0; turn < afterTurns; turn++)
        await new Promise((resolve) => setImmediate(resolve))
      stop.abort()
      await within(
        systemClock,
        10_000,
        `the end, told to stop after ${afterTurns} turns`,
        listening,
      )
    }
    for (let afterTurns = 0; afterTurns < 60; afterTurns++) await stopped(afterTurns)
  })

  test('does not deliver again while the receiver says that it is still at it', async () => {
    const { log } = opened
    const vm = unique()
    const stop = new AbortController()
    const receiver = {
      durable: unique(),
      subject: `ferry.decision.${vm}`,
      ackWaitMs: 600,
      signal: stop.signal,
    }
    await log.append(requested({ vm, id: unique() }))
    const seen: number[] = []
    const receiving = (async () => {
      for await (const { working, done } of log.deliveries(receiver)) {
        seen.push(seen.length)
        for (let beat = 0; beat < 10; beat++) {
          await systemClock.sleep(150)
          working()
        }
        done()
        stop.abort()
      }
    })()
    await within(systemClock, 20_000, 'the end of the work', receiving)
    assert.is(seen.length, 1)
  })

  test('of two who decide at the same head exactly one wins, and both know who', async () => {
    const { log, other } = opened
    const vm = unique()
    let after = 0
    for (let round = 0; round < 300; round++) {
      const one = requested({ vm, id: unique(), after })
      const two = requested({ vm, id: unique(), after })
      const [first, second] = await Promise.all([contest(log, one), contest(other, two)])
      assert.is.not(first.won, second.won, `round ${round}`)
      assert.equal(first.winner, second.winner)
      assert.is(first.winner.message.event.id, first.won ? one.id : two.id)
      after = first.winner.position
    }
  })

  test('Committed races Cancelled: one verdict, and every reader sees the same', async () => {
    const { log, other } = opened
    for (let round = 0; round < 300; round++) {
      const contested = { target: 'rack2', migration: unique(), attempt: 1 }
      const commit = committed({ ...contested, id: unique() })
      const cancel = cancelled({ ...contested, id: unique() })
      const [committing, cancelling] = await Promise.all([
        contest(log, commit),
        contest(other, cancel),
      ])
      assert.is.not(committing.won, cancelling.won, `round ${round}`)
      const verdict = await verdictOn(log, contested)
      assert.is(verdict?.type, committing.won ? 'Committed' : 'Cancelled')
      assert.is(verdict?.id, (await verdictOn(other, contested))?.id)
    }
  })

  test('junk before the verdict neither is one nor stops one', async () => {
    const { log, inject } = opened
    const contested = { target: 'rack2', migration: unique(), attempt: 1 }
    const subject = `ferry.verdict.rack2.${contested.migration}.1`
    await inject(subject, '{"I": "win"}')
    await inject(
      subject,
      encode(committed({ ...contested, id: unique(), writer: { host: 'rack9' } })),
    )
    assert.is(await verdictOn(log, contested), undefined)
    const { won } = await contest(log, cancelled({ ...contested, id: unique() }))
    assert.ok(won)
    assert.is((await contest(log, committed({ ...contested, id: unique() }))).won, false)
  })

  test('a decision that was sent twice wins once', async () => {
    const { log } = opened
    const event = requested({ vm: unique(), id: unique(), after: 0 })
    const first = await contest(log, event)
    const again = await contest(log, event)
    assert.ok(first.won && again.won)
    assert.is(first.winner.position, again.winner.position)
  })

  test.run()
}

let counter = 0
/** A name that no other test uses. */
const unique = (stem = 'x'): string =>
  `${stem}-${process.pid}-${Date.now().toString(36)}-${counter++}`

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

async function take<T>(items: AsyncIterable<T>, count: number): Promise<T[]> {
  const taken: T[] = []
  for await (const item of items) if (taken.push(item) === count) break
  return taken
}

const eventOf = (entry: Entry): Event | undefined =>
  entry.message.is === 'event' ? entry.message.event : undefined
const idOf = (entry: Entry): string => eventOf(entry)?.id ?? ''
const ids = (entries: Entry[]): string[] => entries.map(idOf)

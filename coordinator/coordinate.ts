import { setMaxListeners } from 'node:events'
import type { EventOf, Writer } from '@ferry/schemas/event'
import type { Answer } from '@ferry/schemas/request'
import { timestamp, within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { mustBeKnown } from '@ferry/events/entry'
import type { Entry } from '@ferry/events/entry'
import * as fleets from '@ferry/events/fleet'
import type { Fleet } from '@ferry/events/fleet'
import { filters } from '@ferry/events/subjects'
import { isStopped } from '@ferry/events/alarms'
import { contest } from '@ferry/events/log'
import type { Guarded, Log } from '@ferry/events/log'
import { LogLostTail, openWitness } from '@ferry/events/log/witness'
import { Queue } from '@ferry/events/queue'
import type { Watermark } from '@ferry/events/watermark'
import type { Registers } from '@ferry/events/registers'
import type { Snapshots } from '@ferry/events/snapshots'
import { fenceReport, isWanted } from './decide/fence.ts'
import { nextStep } from './decide/next-step.ts'
import type { Judgement } from './decide/request.ts'
import type { FenceOrder } from './decide/step.ts'
import type { Rules, World } from './decide/world.ts'
import { noFences } from './fences.ts'
import type { Fences } from './fences.ts'
import { listenToHeartbeats } from './heartbeats.ts'
import type { KnownHosts } from './known-hosts.ts'
import { keepSnapshots } from './keep-snapshots.ts'
import { holdLease } from './lease.ts'
import type { Lease } from './lease.ts'
import { refused } from './refused.ts'
import { sameLog } from './same-log.ts'
import type { SameLog } from './same-log.ts'
import { startFrom } from './start-from.ts'
import type { Say } from '@ferry/events/say'

/**
 * The loop: take what the log says, fold it, decide, write. Any number of coordinators run it; all fold along and
 * take requests, and the one that holds the lease acts. What it writes takes effect when it comes back from the
 * log, so nothing is kept here that a crash could lose.
 *
 * - C1 The fold advances only in `run`, one entry a turn.
 * - C2 Of each guest at most one step is being written; the next is decided when that one has come back.
 * - C3 Only a leader acts, and only behind its own `LeadershipTaken`: by then it has folded all that came before.
 * - C4 On a log that has lost its tail nothing is decided but its recovery.
 */
export type Coordinator = {
  readonly name: string
  readonly fleet: () => Fleet
  readonly world: () => World
  /** Resolves when what stands in the log now is folded, or when that takes too long. */
  readonly caughtUp: () => Promise<void>
  /** Records what a request decides. Judged again when somebody else decided meanwhile, a few times. */
  readonly record: (
    judge: (fleet: Fleet, world: World) => Judgement<never> | AnyJudgement,
    id: string,
  ) => Promise<Answer>
  /** Ends when the signal says so, or with the error that stopped it. */
  readonly ended: Promise<void>
}

type AnyJudgement =
  | Judgement<'MigrationRequested'>
  | Judgement<'CancelAsked'>
  | Judgement<'LimitsSet'>
  | Judgement<'StartOrdered'>
  | Judgement<'LogRecovered'>
  | Judgement<'Fenced'>

export type CoordinatorEdges = {
  readonly name: string
  readonly log: Log
  readonly leases: Registers
  readonly heartbeats: Registers
  readonly snapshots: Snapshots
  readonly snapshotEvery: number
  readonly clock: Clock
  readonly rules: Rules
  readonly lease: Lease
  /** What turns hosts off, where there is something. */
  readonly fences?: Fences
  readonly watermark: Watermark
  readonly knownHosts: KnownHosts
  /** After the log came back nothing is decided for so long, so that hosts can raise their alarms first. */
  readonly settleMs: number
  readonly say: Say
  readonly signal: AbortSignal
}

/** Longer than an agent takes to see that the log is back, and to compare it. */
export const defaultSettleMs = 1000

/** What was decided will not be folded here: this fold is over. */
class BegunAnew extends Error {
  override readonly name = 'BegunAnew'

  constructor() {
    super('the coordinator has ended, or begins anew')
  }
}

/** The reason of a signal: nobody waits any more for a host to be turned off, or somebody else does it. */
class NotWanted extends Error {
  override readonly name = 'NotWanted'

  constructor() {
    super('the host need not be turned off any more')
  }
}

type Turn =
  | { readonly entry: Entry }
  | { readonly written: string; readonly position: number }
  | { readonly failed: string; readonly error: unknown }
  | { readonly look: 'again' }

const AFTER_FAILURE_MS = 1000
const MOST_TRIES = 5

/**
 * Folds what the log holds, then goes on with what comes; resolves when the present is reached. Begins anew, from the
 * log as it is then, whenever that has lost what was folded.
 */
export async function coordinate(edges: CoordinatorEdges): Promise<Coordinator> {
  const once = async () => {
    const stop = new AbortController()
    const signal = AbortSignal.any([edges.signal, stop.signal])
    // While the log is silent everything that is being written waits on it: any number, and no leak.
    setMaxListeners(0, signal)
    return { coordinator: await coordinateOnce({ ...edges, signal }), stop }
  }
  let beginning = once()
  let present = await beginning
  const run = async () => {
    for (;;)
      try {
        return await present.coordinator.ended
      } catch (error) {
        present.stop.abort()
        if (!(error instanceof LogLostTail)) throw error
        edges.say.warn('beginning anew, from the log as it is now')
        beginning = once()
        present = await beginning
      }
  }
  const record: Coordinator['record'] = async (judge, id) => {
    for (;;)
      try {
        return await present.coordinator.record(judge, id)
      } catch (error) {
        if (!(error instanceof BegunAnew) || edges.signal.aborted) throw error
        // What was written may be lost or not: judged again, it is recorded once.
        await beginning
      }
  }
  return {
    name: edges.name,
    fleet: () => present.coordinator.fleet(),
    world: () => present.coordinator.world(),
    caughtUp: () => present.coordinator.caughtUp(),
    record,
    ended: run(),
  }
}

async function coordinateOnce(edges: CoordinatorEdges): Promise<Coordinator> {
  const {
    name,
    log,
    leases,
    heartbeats,
    clock,
    rules,
    lease,
    fences = noFences,
    knownHosts,
    say,
    signal,
  } = edges
  const me: Writer = { coordinator: name }
  const turns = new Queue<Turn>()
  const fail = (error: unknown) =>
    turns.close(error instanceof Error ? error : new Error(String(error)))
  /** What is found out before anything was folded concerns no fold. */
  let hasBegun = false
  const witness = await openWitness({
    ...edges,
    me,
    lost: (error) => {
      if (hasBegun) fail(error)
    },
  })
  hasBegun = true
  const same = sameLog({ ...edges })
  const read = (after: number) => checked(log.read({ after, signal }))
  const { fleet, from, last } = await readThrough(same, () => startFrom({ ...edges, read }))
  for (const host of fleet.hosts.keys()) knownHosts.add(host)
  const snapshots = keepSnapshots({ ...edges, every: edges.snapshotEvery, from })
  const reached: { position: number; resolve: () => void; reject: (error: Error) => void }[] = []
  let isOver = false
  /** Guests to look at, and those whose step is on its way: until the log has come to that position (C2). */
  const stale = new Set<string>()
  const writing = new Map<string, number>()
  /** Guests for whose sake a host is being turned off; that takes long, and may have to be broken off. */
  const fencing = new Map<string, { readonly order: FenceOrder; readonly stop: AbortController }>()
  let leading: { epoch: number; isReady: boolean } | undefined
  let anchor = { storedAt: clock.now(), elapsed: clock.elapsed() }
  let timer: { at: number; prevent: () => void } | undefined

  const hosts = listenToHeartbeats(
    { name, heartbeats, kept: leases, known: knownHosts },
    clock,
    () => lookAgain(),
    signal,
  )
  const world = (): World => ({
    now: anchor.storedAt + (clock.elapsed() - anchor.elapsed),
    alive: hosts.alive(),
    listenedMs: hosts.listenedMs(),
    known: knownHosts.names(),
    canFence: fences.hosts,
    rules,
    me,
  })

  witness.onChange(() => lookAgain())
  same.onSame(() => {
    // What was written and is not folded yet may be lost, and would be waited for without end. Decided again it is the same.
    for (const [key, position] of writing) if (Number.isFinite(position)) finish(key)
    lookAgain()
  })
  const lookAgain = () => {
    for (const migration of fleets.underWay(fleet)) stale.add(migration.vm)
    for (const { vm, start } of fleet.guests.values()) if (start !== undefined) stale.add(vm)
    turns.put({ look: 'again' })
  }

  /** Wakes the loop at a moment of the log's clock; the earliest wish counts. */
  const lookAt = (at: number) => {
    if (timer !== undefined && timer.at <= at) return
    timer?.prevent()
    const prevent = clock.after(Math.max(1, at - world().now), () => {
      timer = undefined
      lookAgain()
    })
    timer = { at, prevent }
  }

  const write = (key: string, work: Promise<number>) => {
    writing.set(key, Number.POSITIVE_INFINITY)
    const returns = same.returns()
    work.then(
      (position) =>
        turns.put({ written: key, position: returns === same.returns() ? position : 0 }),
      (error: unknown) => turns.put({ failed: key, error }),
    )
  }

  /** What was decided on a log that comes back shorter must not be written into what is left of it. */
  const inThisLife = () => AbortSignal.any([signal, same.untilReturn()])

  const decide = async (event: Guarded): Promise<number> => {
    const { won, winner } = await contest(log, event, { signal: inThisLife() })
    const seen = { type: event.type, id: event.id, position: winner.position }
    if (won) say.info(seen, 'decided')
    else say.warn({ ...seen, winner: winner.message.event.id }, 'somebody else decided first')
    return winner.position
  }

  /** Turns a host off, and records what came of it. Whoever leads next does it again: off stays off. */
  const fence = async (vm: string, order: FenceOrder): Promise<number> => {
    const stop = new AbortController()
    fencing.set(vm, { order, stop })
    try {
      say.warn({ vm, host: order.host }, 'turning a host off')
      const outcome = await fences.turnOff(order.host, AbortSignal.any([stop.signal, signal]))
      say.warn({ vm, host: order.host, ...outcome }, 'the fence command has ended')
      const guest = fleet.guests.get(vm)
      const report = guest && fenceReport(guest, order, outcome, world())
      return report === undefined ? fleet.position : await decide(report)
    } finally {
      fencing.delete(vm)
    }
  }

  const breakOffFences = () => {
    for (const { stop } of fencing.values()) stop.abort(new NotWanted())
  }

  const act = (vm: string) => {
    const guest = fleet.guests.get(vm)
    if (guest === undefined) return
    const fenced = fencing.get(vm)
    if (fenced !== undefined && !isWanted(guest, fenced.order)) fenced.stop.abort(new NotWanted())
    if (writing.has(vm)) return
    const step = nextStep(fleet, guest, world())
    if (step.lookAgainAt !== undefined) lookAt(step.lookAgainAt)
    if (step.decide?.type === 'Admitted') {
      // One admission at a time: the next one must see what this one took.
      if (!writing.has(LEDGER)) write(LEDGER, decide(step.decide))
      return
    }
    if (step.decide !== undefined) return write(vm, decide(step.decide))
    if (step.command.length === 0) {
      if (step.fence !== undefined) write(vm, fence(vm, step.fence))
      return
    }
    const life = inThisLife()
    write(
      vm,
      Promise.all(step.command.map((event) => log.append(event, { signal: life }))).then((stored) =>
        Math.max(...stored.map(({ position }) => position)),
      ),
    )
  }

  /** C3 and C4, in one place for all that a coordinator does by itself. */
  const mayAct = () =>
    leading?.isReady === true && witness.isWell() && same.isSame() && !isStopped(fleet.alarms)
  const actOnStale = () => {
    if (!mayAct()) return
    // In the order in which they were asked for: the queue is fair.
    const waiting = [...stale].toSorted((a, b) => requestedAt(fleet, a) - requestedAt(fleet, b))
    stale.clear()
    for (const vm of waiting) {
      try {
        act(vm)
      } catch (error) {
        say.error({ vm, err: error }, 'this guest cannot be decided on; the others go on')
      }
    }
  }

  const fold = (entry: Entry) => {
    const ruling = fleets.follow(fleet, entry)
    witness.seen(entry)
    anchor = { storedAt: entry.storedAt, elapsed: clock.elapsed() }
    if ('why' in ruling)
      say.warn({ position: entry.position, subject: entry.subject, why: ruling.why }, 'void')
    else for (const vm of ruling.touched) stale.add(vm)
    const reporter = reporterOf(entry)
    if (reporter !== undefined) knownHosts.add(reporter)
    if (isEnding(entry)) lookAgain()
    // The doubt may be one that only this log has: the host that is being turned off may run the guest.
    if (isStopped(fleet.alarms)) breakOffFences()

    for (const [key, position] of writing) if (position <= entry.position) finish(key)
    for (const waiter of reached.splice(0)) {
      if (waiter.position <= fleet.position) waiter.resolve()
      else reached.push(waiter)
    }
    const { leader } = fleet
    if (leader?.position !== entry.position || leading === undefined) return
    if (leader.coordinator === name && leader.epoch === leading.epoch) leading.isReady = true
    else if (leader.epoch >= leading.epoch) leading = undefined
    if (leading?.isReady === true) lookAgain()
  }

  const finish = (key: string) => {
    writing.delete(key)
    if (key === LEDGER) lookAgain()
    else stale.add(key)
  }

  const take = (turn: Turn) => {
    if ('entry' in turn) {
      fold(turn.entry)
      snapshots.folded(turn.entry)
    } else if ('written' in turn) {
      if (turn.position <= fleet.position) finish(turn.written)
      else writing.set(turn.written, turn.position)
    } else if ('failed' in turn) {
      say.warn(
        { key: turn.failed, err: turn.error },
        'could not be written; it will be decided again',
      )
      writing.delete(turn.failed)
      lookAt(world().now + AFTER_FAILURE_MS)
    }
    actOnStale()
    // What was folded across a loss is the state of no log.
    snapshots.turned(fleet, mayAct())
  }

  const follow = async () => {
    for await (const entry of checked(same.follow(last))) turns.put({ entry })
  }
  /** Until the log has it, nothing is decided (C3); until then there is nothing else to do either. */
  const announce = async (epoch: number) => {
    const event = leadershipTaken(me, epoch, world().now)
    const isLeading = () => leading?.epoch === epoch && !signal.aborted
    while (isLeading()) {
      try {
        await log.append(event, { signal })
        return
      } catch (error) {
        say.warn({ err: error }, 'leading, but the log does not take it')
        await clock.sleep(AFTER_FAILURE_MS, signal).catch(() => {})
      }
    }
  }
  const lead = () =>
    holdLease({
      me: name,
      registers: leases,
      clock,
      lease,
      signal,
      gained: (epoch) => {
        leading = { epoch, isReady: false }
        say.info({ epoch }, 'leading')
        void announce(epoch)
      },
      lost: () => {
        leading = undefined
        breakOffFences()
        say.warn('not leading any more')
      },
    })
  const run = async () => {
    for await (const turn of turns) take(turn)
  }

  signal.addEventListener('abort', () => turns.close(), { once: true })
  // It may have been told to end while it was reading the log.
  if (signal.aborted) turns.close()
  const edgesEnded = Promise.all(
    [follow(), lead(), hosts.watching, witness.watching].map((part) => part.catch(fail)),
  )
  const whole = async () => {
    try {
      await run()
    } finally {
      timer?.prevent()
      same.stop()
      isOver = true
      for (const { reject } of reached.splice(0)) reject(new BegunAnew())
      if (signal.aborted) await Promise.all([edgesEnded, snapshots.stop(fleet)])
    }
  }
  const ended = whole()

  const folded = (position: number) =>
    new Promise<void>((resolve, reject) => {
      if (position <= fleet.position) resolve()
      else if (isOver) reject(new BegunAnew())
      else reached.push({ position, resolve, reject })
    })

  /** The fold forgets the oldest migrations, and their verdicts still stand: they would count for a new one of that id. */
  const usedBefore = async (id: string) => {
    const subject = filters.verdictsOn(id)
    for await (const entry of log.read({ after: 0, subject, signal })) return entry
    return undefined
  }

  /** Nothing is refused for want of what somebody has recorded just now: who would refuse looks once more. */
  const judged = async (judge: Parameters<Coordinator['record']>[0]) => {
    const judgement = judge(fleet, world())
    if (!('refusal' in judgement)) return judgement
    await caughtUp()
    if (isOver) throw new BegunAnew()
    return judge(fleet, world())
  }

  const record: Coordinator['record'] = async (judge, id) => {
    for (let tries = 0; tries < MOST_TRIES; tries++) {
      const judgement = await judged(judge)
      if ('refusal' in judgement) return refused(judgement.refusal)
      if ('recorded' in judgement) return { accepted: true, id, position: judgement.recorded }
      const { decision } = judgement
      const standing = Object.values(fleet.alarms.standing)
      const [alarm] = standing
      if (alarm !== undefined && decision.type !== 'LogRecovered')
        return refused({
          type: 'LogBehind',
          who: standing.map(({ who }) => who),
          position: alarm.missing.position,
        })
      if (decision.type === 'MigrationRequested') {
        const before = await usedBefore(id)
        if (before !== undefined && before.position <= fleet.position)
          return refused({ type: 'RequestIdTaken', request: id, vm: decision.vm })
        if (before !== undefined) {
          await folded(before.position)
          continue
        }
      }
      const { won, winner } = await contest(log, decision, { signal })
      await folded(winner.position)
      if (won) return { accepted: true, id, position: winner.position }
    }
    return refused({ type: 'Busy', what: id })
  }
  const caughtUp = async () => {
    try {
      const head = await edges.log.head({ signal, patienceMs: CATCH_UP_MS })
      await within(clock, CATCH_UP_MS, 'folding what stands in the log', folded(head))
    } catch {
      // It is no worse than before.
    }
  }
  return { name, fleet: () => fleet, world, caughtUp, record, ended }
}

const CATCH_UP_MS = 2000

const LEDGER = ' the ledger'

/** Read without a break: what was read across one may be the state of no log. */
async function readThrough<T>({ returns }: SameLog, read: () => Promise<T>): Promise<T> {
  for (;;) {
    const before = returns()
    const found = await read()
    if (before === returns()) return found
  }
}

/** Coordinators write what coordinators must understand; a newer agent's facts are void here, and harmless. */
async function* checked(entries: AsyncIterable<Entry>): AsyncGenerator<Entry, void, undefined> {
  for await (const entry of entries) {
    if (!/^ferry\.(fact|host)\./.test(entry.subject)) mustBeKnown(entry)
    yield entry
  }
}

/** Something ended or a host changed: whoever waits in the queue may have a chance now. */
const isEnding = ({ message }: Entry): boolean =>
  message.is === 'event' &&
  ['Completed', 'Abandoned', 'Retried', 'HostReported'].includes(message.event.type)

const reporterOf = ({ message }: Entry): string | undefined =>
  message.is === 'event' && message.event.type === 'HostReported' && 'host' in message.event.writer
    ? message.event.writer.host
    : undefined

const requestedAt = (fleet: Fleet, vm: string): number =>
  fleet.guests.get(vm)?.migration?.requested.position ?? 0

const leadershipTaken = (
  writer: Writer,
  epoch: number,
  now: number,
): EventOf<'LeadershipTaken'> => ({
  type: 'LeadershipTaken',
  id: `${'coordinator' in writer ? writer.coordinator : ''}.LeadershipTaken.${epoch}.${Math.floor(now)}`,
  writer,
  time: timestamp(now),
  data: { epoch },
})

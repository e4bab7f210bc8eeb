import type { Decoded } from '@ferry/schemas/cloud-event'
import type { EventOf } from '@ferry/schemas/event'
import { timestamp } from '@ferry/events/clock'
import { foldHistory } from '@ferry/events/history'
import type { Delivery } from '@ferry/events/log'
import { filters, token } from '@ferry/events/subjects'
import { isCommand } from '@ferry/events/migration'
import { dialFor } from './dial.ts'
import type { Dial } from './dial.ts'
import type { Hands } from './hands.ts'
import type { Journal } from './journal.ts'
import { notKnown } from './not-known.ts'
import { StaleHere } from './stale.ts'
import type { Command, Fact } from './voice.ts'

/**
 * The command loop: a command is delivered until it has been answered in the log. Of each guest one command is carried
 * out at a time; the ones that end an attempt do not wait, they break off what is under way.
 *
 * - S1 A command is acknowledged only when its answer stands in the log, or when it is void.
 * - S2 Delivered again while it is being carried out, it is not carried out twice.
 * - S3 A command from before the last recovery of the log is void.
 * - S4 When it has ended, nothing that it was told is under way any more.
 */
export async function serve(office: Office): Promise<void> {
  const { hands, recoveredAt, signal } = office
  const { host, log, say } = hands
  const works = new Map<string, Work[]>()
  const desk: Desk = { ...office, works, starts: new Map() }
  /** What is done beside the works. */
  const aside = new Set<Promise<void>>()
  const doAside = (doing: Promise<void>) => {
    aside.add(doing)
    void doing.then(() => aside.delete(doing))
  }

  const durable = `agent-${token(host)}`
  const subject = filters.commandsFor(host)
  for await (const delivery of log.deliveries({
    durable,
    subject,
    ackWaitMs: ACK_WAIT_MS,
    signal,
  })) {
    const { message, position } = delivery.entry
    if (message.is === 'void') {
      say.warn({ position, message }, 'not a command: ignored')
      delivery.done()
    } else if (position < recoveredAt) {
      delivery.done()
    } else if (message.is === 'unknown') {
      doAside(sayUnknown(message, delivery, desk))
    } else if (message.event.type === 'Start') {
      doAside(startOnce(message.event, delivery, desk))
    } else if (isCommand(message.event)) {
      receive(message.event, delivery, desk)
    } else delivery.done()
  }
  const left = [...works.values()].flat()
  for (const { stop } of left) stop.abort(new Stopped())
  await Promise.allSettled([...left.map(({ ended }) => ended), ...aside])
}

export type Office = {
  readonly hands: Hands
  readonly does: Does
  readonly journal: Journal
  readonly recoveredAt: number
  readonly signal: AbortSignal
}

/** Carries a command out, wherever that is done. */
export type Does = (command: Command, signal: AbortSignal, dial?: Dial) => Promise<Fact | undefined>

/** Redelivered after so long without a word: how soon a restarted agent finds what its predecessor left undone. */
const ACK_WAIT_MS = 2000
const STILL_AT_IT_MS = 600
const AGAIN_MS = 1000

/** One command that is being carried out, or waits for those before it. */
type Work = {
  readonly command: Command
  /** What a copy keeps to: asked for once more behind the last time, it may be with other limits. */
  readonly dial?: Dial
  /** Where it was asked for last. */
  position: number
  /** Every delivery of it; all are acknowledged together. */
  readonly deliveries: Delivery[]
  readonly stop: AbortController
  readonly ended: Promise<void>
}

/** The reason of a signal: the agent ends, or a later command has made this one void. */
class Stopped extends Error {
  override readonly name = 'Stopped'
}

type Desk = Office & {
  /** Of each guest, in the order in which they came. */
  readonly works: Map<string, Work[]>
  /** By the id of a start that is being carried out: its deliveries. */
  readonly starts: Map<string, Delivery[]>
}

function receive(command: Command, delivery: Delivery, desk: Desk): void {
  const { hands, journal, works } = desk
  const { vm, migration, attempt, type } = command
  const { position } = delivery.entry
  const ruling = journal.judge(command)
  if (ruling !== 'obey') {
    hands.say.debug({ vm, migration, attempt, type, ruling }, 'nothing to do')
    delivery.done()
    return
  }
  const present = works.get(vm) ?? []
  const same = present.find((work) => !work.stop.signal.aborted && isSame(work.command, command))
  if (same !== undefined) {
    same.deliveries.push(delivery)
    if (command.type === 'Perform' && position > same.position) same.dial?.turn(command.data.policy)
    same.position = Math.max(same.position, position)
    return
  }
  // What does not end an attempt waits for its turn: its predecessor's answer may stand in the log already, and this
  // agent not have heard so.
  for (const work of present) if (breaksOff(command, work.command)) work.stop.abort(new Stopped())
  const stop = new AbortController()
  const deliveries = [delivery]
  const dial = command.type === 'Perform' ? dialFor(command, hands.say) : undefined
  const work: Work = {
    command,
    ...(dial === undefined ? {} : { dial }),
    position,
    deliveries,
    stop,
    ended: (present.at(-1)?.ended ?? Promise.resolve()).then(() => carryOutOnce(work, desk)),
  }
  works.set(vm, [...present, work])
  void work.ended.then(() => {
    const others = (works.get(vm) ?? []).filter((other) => other !== work)
    if (others.length > 0) works.set(vm, others)
    else works.delete(vm)
  })
}

/** Carries a command out, puts its answer into the log, and only then acknowledges it (S1). Never throws. */
async function carryOutOnce(
  { command, dial, deliveries, stop: { signal } }: Work,
  desk: Desk,
): Promise<void> {
  const { hands, does, journal } = desk
  const { clock, say } = hands
  const { vm, migration, attempt, type } = command
  const about = { vm, migration, attempt, type }
  const busy = new AbortController()
  void keepSaying(() => deliveries.forEach(({ working }) => working()), hands, busy.signal)
  const began = clock.elapsed()
  try {
    // What came while this one waited for its turn may have made it void.
    if (signal.aborted || journal.judge(command) !== 'obey')
      return deliveries.forEach(({ done }) => done())
    say.info(about, 'carrying out')
    const fact = await does(command, signal, dial)
    if (fact !== undefined) await answered(fact, desk)
    const ms = Math.round(clock.elapsed() - began)
    say.info({ ...about, answer: fact?.type, ms }, 'answered')
    deliveries.forEach(({ done }) => done())
  } catch (error) {
    if (error instanceof Stopped) {
      say.info(about, 'broken off')
      // A void command is done with; one that the end of this agent broke off is the next agent's.
      if (journal.judge(command) !== 'obey') deliveries.forEach(({ done }) => done())
      return
    }
    say.error({ ...about, err: error }, 'could not be carried out; it will be tried again')
    deliveries.forEach(({ again }) => again(AGAIN_MS))
  } finally {
    busy.abort()
  }
}

const ANSWER_MS = 60_000

/** A newer coordinator must hear that it asks in vain: what it asked for can only be given up, or asked otherwise. */
async function sayUnknown(
  { type: command, about }: Extract<Decoded, { is: 'unknown' }>,
  delivery: Delivery,
  desk: Desk,
): Promise<void> {
  const { say } = desk.hands
  say.warn({ command, ...about }, 'a command that this release does not know')
  if (about === undefined) return delivery.done()
  try {
    await answered(notKnown(command, about, desk.hands), desk)
    delivery.done()
  } catch (error) {
    say.error({ command, err: error }, 'could not be told; it will be tried again')
    delivery.again(AGAIN_MS)
  }
}

async function keepSaying(word: () => void, { clock }: Hands, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    word()
    await clock.sleep(STILL_AT_IT_MS, signal).catch(() => {})
  }
}

/**
 * Ordered to start a guest: once, however often it is delivered, and whatever happens to the guest afterwards. The record
 * must still want it: a recovery takes orders back, and one that was on its way may come behind it, when the guest that
 * was started then has been moved away (I1).
 */
async function startOnce(command: EventOf<'Start'>, delivery: Delivery, desk: Desk): Promise<void> {
  const { hands, journal, starts } = desk
  const { vm, data } = command
  if (journal.hasStarted(data.start)) return delivery.done()
  const present = starts.get(data.start)
  // A second call that came late would start a guest that has been moved away meanwhile (I1).
  if (present !== undefined) return void present.push(delivery)
  const deliveries = [delivery]
  starts.set(data.start, deliveries)
  const busy = new AbortController()
  void keepSaying(() => deliveries.forEach(({ working }) => working()), hands, busy.signal)
  try {
    if (!(await isWanted(command, hands))) {
      hands.say.warn({ vm, start: data.start }, 'nobody wants it started: refused')
      return deliveries.forEach(({ done }) => done())
    }
    const event = await started(command, hands)
    await answered(event, desk)
    hands.say.info({ vm, answer: event.type }, 'started')
    deliveries.forEach(({ done }) => done())
  } catch (error) {
    hands.say.error({ vm, err: error }, 'could not be started; it will be tried again')
    deliveries.forEach(({ again }) => again(AGAIN_MS))
  } finally {
    busy.abort()
    starts.delete(data.start)
  }
}

async function isWanted({ vm, data }: EventOf<'Start'>, { host, log }: Hands): Promise<boolean> {
  const guest = (await foldHistory(log, vm)).guests.get(vm)
  if (guest?.start?.id !== data.start) return false
  if (guest.stale[host] !== undefined) throw new StaleHere(vm)
  return true
}

async function started(
  { vm, data, id }: EventOf<'Start'>,
  { host, driver, clock }: Hands,
): Promise<EventOf<'GuestStarted' | 'StartRefused'>> {
  const answer = await driver.start(vm)
  const envelope = { writer: { host }, time: timestamp(clock.now()), vm, causationid: id }
  return 'refusal' in answer
    ? {
        ...envelope,
        id: `${data.start}.StartRefused`,
        type: 'StartRefused',
        data: { start: data.start, refusal: answer.refusal },
      }
    : {
        ...envelope,
        id: `${data.start}.GuestStarted`,
        type: 'GuestStarted',
        data: { start: data.start, needs: answer.needs },
      }
}

/** Puts an answer into the log, and remembers that it stands there. */
async function answered(
  event: Fact | EventOf<'GuestStarted' | 'StartRefused' | 'CommandUnknown'>,
  { hands, journal }: Desk,
): Promise<void> {
  await hands.remembered()
  const { position } = await hands.log.append(event, { patienceMs: ANSWER_MS })
  const message = { is: 'event', event } as const
  journal.note({ position, storedAt: hands.clock.now(), subject: '', message })
}

const isSame = (one: Command, other: Command): boolean =>
  one.type === other.type && one.data.admission === other.data.admission

/** What ends an attempt breaks off all that is under way for the guest, and not the other word that may end it. */
const breaksOff = (command: Command, present: Command): boolean =>
  command.data.admission > present.data.admission || (isEnd(command) && !isEnd(present))

const isEnd = ({ type }: Command): boolean => type === 'Cancel' || type === 'Confirm'

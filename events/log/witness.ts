import type { EventOf, Writer } from '@ferry/schemas/event'
import { messages } from '@ferry/schemas/messages'
import * as alarms from '../alarms.ts'
import type { Recovery } from '../alarms.ts'
import { timestamp, within } from '../clock.ts'
import type { Clock } from '../clock.ts'
import { isEvent } from '../entry.ts'
import type { Entry } from '../entry.ts'
import { LogUnavailable, placeOf } from '../log.ts'
import type { Log, Patience } from '../log.ts'
import type { Say } from '../say.ts'
import { filters } from '../subjects.ts'
import { isMissing, nothingIn } from '../watermark.ts'
import type { Seen, Watermark } from '../watermark.ts'

/**
 * Whether the log is still the one that was known. Each time that it comes back it is compared with the watermark; who
 * misses something in it raises an alarm there, and while any alarm stands, whoever raised it, nothing is done that
 * the log would have to allow. Only a recorded recovery ends that.
 */
export type Witness = {
  /**
   * The log for whoever acts on it. What passes is remembered. What `next`, `last` and `follow` give, and the end of a `read`, are
   * withheld until the log has been compared, and until it is written down that this was seen: a guest is started,
   * resumed or ended on nothing else. That it was written down of a delivery is all that a command needs.
   */
  readonly log: Log
  /** Waits until nothing speaks against the log. The signal is aborted when something does. */
  readonly well: (signal: AbortSignal) => Promise<AbortSignal>
  readonly isWell: () => boolean
  /** The position of the last alarm that was heard, while one stands; undefined: nothing has been stopped. */
  readonly stoppedAt: () => number | undefined
  /** Resolves when it is known for the first time whether the log can be trusted. */
  readonly judged: Promise<void>
  /** Resolves when all that was acted on would be remembered after a power cut; nothing is answered before. */
  readonly remembered: () => Promise<void>
  readonly seen: (entry: Entry) => void
  /** The position of the last recovery: a command from before it is void. */
  readonly recoveredAt: () => number
  /** Calls back when something was found out: compared, stopped, recovered. */
  readonly onChange: (act: () => void) => void
  readonly watching: Promise<void>
}

export type WitnessEdges = {
  readonly log: Log
  readonly me: Writer
  readonly watermark: Watermark
  readonly clock: Clock
  readonly say: Say
  readonly signal: AbortSignal
  /** How long after the log came back nothing is done, so that others can raise their alarms first. */
  readonly settleMs: number
  /** Called once for each recovery, before anything else is done: what must become of this host's guests. */
  readonly recovered?: (recovery: Recovery) => Promise<void>
  /** Called when this one's own memory goes further than the log. */
  readonly lost?: (error: LogLostTail) => void
}

/** The log does not hold what was seen in it, or somebody says so. */
export class LogLostTail extends Error {
  override readonly name = 'LogLostTail'

  constructor(what: string) {
    super(`the log has lost its tail: ${what}`)
  }
}

type State = 'comparing' | 'well' | 'stopped'

const AGAIN_MS = 500
const PATIENCE_MS = 15_000

/** Resolves when the log has been compared for the first time. */
export async function openWitness(edges: WitnessEdges): Promise<Witness> {
  const { log, me, watermark, clock, say, signal, settleMs } = edges
  let known = alarms.noAlarms()
  let state: State = 'comparing'
  /** Which stretch of trust this is: what was asked in one is worth nothing in the next. */
  let stretch = 0
  let isComparing = true
  let wasWell = false
  const listeners = new Set<() => void>()
  const become = (next: State) => {
    if (next === 'stopped' && state !== 'stopped') {
      stretch += 1
      say.error({ alarms: known.standing }, 'the log has lost its tail: nothing is done on it')
    }
    state = next
    wasWell ||= next === 'well'
    for (const tell of listeners) tell()
  }
  /** Waits until it is so, or until the signal, which is an error then. */
  const when = (isIt: () => boolean, until: AbortSignal): Promise<void> =>
    new Promise((resolve, reject) => {
      const look = () => {
        if (!isIt() && !until.aborted) return
        listeners.delete(look)
        until.removeEventListener('abort', look)
        if (isIt()) resolve()
        else reject(until.reason)
      }
      listeners.add(look)
      until.addEventListener('abort', look)
      look()
    })

  const heed = async (entry: Entry): Promise<void> => {
    if (!isEvent(entry)) return
    const { event } = entry.message
    if (event.type !== 'LogBehind' && event.type !== 'LogRecovered') return
    alarms.evolve(known, event, { position: entry.position, storedAt: entry.storedAt })
    if (isComparing) return
    await begin()
    become(alarms.isStopped(known) ? 'stopped' : 'well')
  }
  /** Into the present life of the log: what was seen in the one before counts no more. */
  const begin = async (): Promise<void> => {
    const mark = watermark.present()
    const { life, recovery } = known
    if (mark === undefined) return watermark.begin(nothingIn(life))
    if (mark.life >= life || recovery === undefined) return
    await edges.recovered?.(recovery)
    const { position, id } = recovery
    await watermark.begin({ life, position, id, subject: filters.recovery })
  }
  const compare = async (until: AbortSignal): Promise<void> => {
    const mark = watermark.present()
    if (mark === undefined || mark.life < known.life || mark.position === 0) return
    const entry = await log.next(mark.subject, mark.position - 1, { signal: until })
    if (mark.life === known.life && !isMissing(mark, entry)) return
    const { position, id, subject } = mark
    const standing = known.standing[alarms.nameOf(me)]
    if (standing?.missing.id !== id || standing.missing.position !== position) {
      const head = await log.head({ signal: until })
      const data = { life: mark.life, missing: { position, id, subject }, head }
      await log.append(behind(me, clock.now(), data), { signal: until })
    }
    become('stopped')
    edges.lost?.(new LogLostTail(`${id} stood at position ${position}`))
  }

  /** From one return of the log to the next. */
  const watch = async (until: AbortSignal, compared: () => void): Promise<void> => {
    known = alarms.noAlarms()
    isComparing = true
    let after = 0
    const readOn = async () => {
      for await (const entry of log.read({ after, subject: filters.alarms, signal: until })) {
        after = entry.position
        await heed(entry)
      }
    }
    await readOn()
    await compare(until)
    // It was lost and answered while this one heard nothing: whatever it is at began in a life of the log that is over.
    if (wasWell && (watermark.present()?.life ?? 0) < known.life) become('stopped')
    await begin()
    compared()
    await clock.sleep(settleMs, until)
    await readOn()
    await begin()
    isComparing = false
    become(alarms.isStopped(known) ? 'stopped' : 'well')
    for await (const entry of log.follow({ after, subject: filters.alarms, signal: until }))
      await heed(entry)
  }
  const watchOn = async (compared: () => void): Promise<void> => {
    while (!signal.aborted) {
      const returned = new AbortController()
      const forget = log.onReturn(() => {
        if (state === 'well') become('comparing')
        returned.abort()
      })
      const until = AbortSignal.any([signal, returned.signal])
      try {
        await watch(until, compared)
      } catch (error) {
        if (until.aborted) continue
        say.warn({ err: error }, 'the log cannot be compared with what was seen of it; again')
        await clock.sleep(AGAIN_MS, until).catch(() => {})
      } finally {
        forget()
      }
    }
  }

  const note = (event: Seen) => {
    if (state === 'well') watermark.seen(event)
  }
  const seen = ({ position, subject, message }: Entry) => {
    if (message.is === 'event') note({ position, subject, id: message.event.id })
  }
  const checkStretch = (mine: number) => {
    if (state === 'stopped' || stretch !== mine)
      throw new LogLostTail('until that is answered, nothing is read from it')
  }
  /** Written down at once; the disk may take its time beside what is done now. */
  const keep = (entry: Entry) => {
    seen(entry)
    watermark.keep()
    watermark.sync().catch((error: unknown) => say.warn({ err: error }, 'not on disk yet'))
  }
  const confirm = async (
    mine: number,
    entry: Entry | undefined,
    { patienceMs = PATIENCE_MS, signal: given }: Patience = {},
  ): Promise<void> => {
    if (state === 'comparing') {
      const until = given === undefined ? signal : AbortSignal.any([signal, given])
      const compared = when(() => state !== 'comparing', until)
      await within(clock, patienceMs, 'comparing the log', compared).catch((cause: unknown) => {
        until.throwIfAborted()
        throw new LogUnavailable('comparing it with what was seen of it', patienceMs, { cause })
      })
    }
    checkStretch(mine)
    if (entry !== undefined) keep(entry)
  }
  const trusted = async (ask: () => Promise<Entry | undefined>, patience?: Patience) => {
    const mine = stretch
    const entry = await ask()
    await confirm(mine, entry, patience)
    return entry
  }
  async function* read(range: Parameters<Log['read']>[0]) {
    const mine = stretch
    let last: Entry | undefined
    for await (const entry of log.read(range)) {
      last = entry
      yield entry
    }
    await confirm(mine, last, range)
  }
  /** As long as it takes: who follows has nothing better to do than to wait, and acts on what comes. */
  async function* follow(range: Parameters<Log['follow']>[0]) {
    const mine = stretch
    const until = AbortSignal.any([signal, range.signal])
    for await (const entry of log.follow(range)) {
      await when(() => state !== 'comparing', until)
      checkStretch(mine)
      keep(entry)
      yield entry
    }
  }
  async function* deliveries(receiver: Parameters<Log['deliveries']>[0]) {
    for await (const delivery of log.deliveries(receiver)) {
      try {
        keep(delivery.entry)
      } catch (error) {
        // A disk that is full now may have room later, and the command comes again.
        say.error({ err: error }, 'what was seen cannot be written down: nothing is obeyed')
        delivery.again(AGAIN_MS)
        continue
      }
      yield delivery
    }
  }

  let compared = () => {}
  const first = new Promise<void>((resolve) => {
    compared = resolve
  })
  const watching = watchOn(compared)
  await Promise.race([first, watching])

  return {
    log: {
      ...log,
      append: async (event, options) => {
        checkStretch(stretch)
        const stored = await log.append(event, options)
        if (messages[event.type].kind !== 'progress')
          note({ ...stored, id: event.id, subject: placeOf(event) })
        return stored
      },
      next: (subject, after, patience) =>
        trusted(() => log.next(subject, after, patience), patience),
      last: (subject, patience) => trusted(() => log.last(subject, patience), patience),
      read,
      follow,
      deliveries,
    },
    well: async (until) => {
      await when(() => state === 'well', until)
      const stop = new AbortController()
      void when(() => state === 'stopped', until).then(
        () => stop.abort(),
        () => {},
      )
      return stop.signal
    },
    isWell: () => state === 'well',
    stoppedAt: () =>
      state === 'stopped'
        ? Math.max(0, ...Object.values(known.standing).map(({ position }) => position))
        : undefined,
    judged: when(() => state !== 'comparing', signal).catch(() => {}),
    remembered: () => watermark.sync(),
    seen,
    recoveredAt: () => known.head,
    onChange: (act) => void listeners.add(act),
    watching,
  }
}

const behind = (
  writer: Writer,
  now: number,
  data: EventOf<'LogBehind'>['data'],
): EventOf<'LogBehind'> => ({
  type: 'LogBehind',
  id: `${'host' in writer ? writer.host : writer.coordinator}.LogBehind.${data.life}.${data.missing.position}.${Math.floor(now)}`,
  writer,
  time: timestamp(now),
  data,
})

import type { EventOf } from '@ferry/schemas/event'
import { timestamp, within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { NewerLog } from '@ferry/events/entry'
import { migrationOf } from '@ferry/events/fleet'
import type { StaleCopy } from '@ferry/events/guest'
import { foldHistory } from '@ferry/events/history'
import type { Log } from '@ferry/events/log'
import { decisions } from '@ferry/events/subjects'
import type { MovingHands } from './hands.ts'
import type { Command } from './voice.ts'

/**
 * Behind a fence the guest runs elsewhere. A copy that is still on the fenced host is stale, whatever it is doing, and
 * ends before anything else (I1). What counts as a fence is what the whole fleet counts as one: the same fold says so.
 */
type Needs = Pick<MovingHands, 'host' | 'log' | 'driver' | 'clock' | 'say'>

/** The copies that an agent found stale when it began. */
export type StaleCopies = {
  /** Resolves when nothing stale is left of this guest: until then nothing is done for it here (I1). Rejects with the signal's reason. */
  readonly ended: (vm: string, signal: AbortSignal) => Promise<void>
  /** Resolves when nothing of it is under way any more. */
  readonly over: Promise<void>
}

export const nothingStale: StaleCopies = { ended: async () => {}, over: Promise.resolve() }

const AGAIN_MS = 500
const AGAIN_AT_MOST_MS = 30_000
/** Longer than a hypervisor takes that answers; one that does not keeps the other guests waiting no longer. */
const FIRST_TRY_MS = 20_000

type Fact = EventOf<'TargetCleared'>

/**
 * An agent that begins looks at what is here before it obeys or reports: nobody hears of a copy that should not be. One
 * that cannot be ended is tried again until the signal, and only its guest waits for that. Resolves when each was tried.
 */
export async function endStaleCopies(
  needs: Needs & {
    /** Puts it into the log, as soon as its copy has ended. */
    readonly append: (fact: Fact) => Promise<void>
    readonly signal: AbortSignal
  },
): Promise<StaleCopies> {
  const { driver, clock, say, signal } = needs
  const ending = new Map<string, Promise<void>>()
  const tried: Promise<unknown>[] = []
  try {
    for (const { vm } of await driver.inspect()) {
      if ((await staleUnlessNewer(vm, needs)) === undefined) continue
      const attempt = endOnce(vm, needs)
      const first = attempt()
      tried.push(first)
      const ended = first.then((isOver) => (isOver ? undefined : tryAgain(attempt, clock, signal)))
      ending.set(vm, ended)
      ended.then(
        () => ending.delete(vm),
        () => {},
      )
    }
  } finally {
    await within(clock, FIRST_TRY_MS, 'the end of stale copies', Promise.all(tried)).catch(
      (error: unknown) =>
        say.error({ vms: [...ending.keys()], err: error }, 'stale copies are still being ended'),
    )
  }
  return {
    ended: async (vm, stop) => {
      const wait = ending.get(vm)
      if (wait !== undefined) await unlessAborted(wait, stop)
    },
    over: Promise.allSettled(ending.values()).then(() => {}),
  }
}

/** @returns what tries once, and resolves with whether nothing stale is left of the guest. */
function endOnce(vm: string, needs: Parameters<typeof endStaleCopies>[0]): () => Promise<boolean> {
  let fact: Fact | undefined
  return async () => {
    try {
      // Its command may have ended it meanwhile, and another copy have come. A fact that is owed is said in any case.
      const stale = fact === undefined ? await staleUnlessNewer(vm, needs) : undefined
      if (stale !== undefined) fact = await endStale(vm, stale, needs)
      if (fact !== undefined) await needs.append(fact)
      return true
    } catch (error) {
      if (!needs.signal.aborted)
        needs.say.error({ vm, err: error }, 'a stale copy stays; it will be tried again')
      return false
    }
  }
}

async function tryAgain(
  attempt: () => Promise<boolean>,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  for (let waitMs = AGAIN_MS; ; waitMs = Math.min(2 * waitMs, AGAIN_AT_MOST_MS)) {
    await clock.sleep(waitMs, signal)
    if (await attempt()) return
  }
}

async function staleUnlessNewer(
  vm: string,
  { host, log, say }: Pick<Needs, 'host' | 'log' | 'say'>,
): Promise<StaleCopy | undefined> {
  try {
    return await staleCopy(log, host, vm)
  } catch (error) {
    // The other guests of this host are not held up by it; whoever must know about this one asks again.
    if (!(error instanceof NewerLog)) throw error
    say.error({ vm, err: error }, 'only a newer agent can say what becomes of this guest')
    return undefined
  }
}

const unlessAborted = (wait: Promise<void>, signal: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason)
    if (signal.aborted) return stop()
    signal.addEventListener('abort', stop, { once: true })
    return void wait.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop))
  })

/** Whoever asks for the guest here must wait until its stale copy has ended. */
export class StaleHere extends Error {
  override readonly name = 'StaleHere'

  constructor(vm: string) {
    super(
      `a fence has made the copy of ${vm} here stale: it ends before anything else is done with it`,
    )
  }
}

/** The fence that makes this host's copy stale; undefined where there is none, or where it has been settled. */
export async function staleCopy(
  log: Log,
  host: string,
  vm: string,
): Promise<StaleCopy | undefined> {
  if (!(await isFenceNamed(log, host, vm))) return undefined
  return (await foldHistory(log, vm)).guests.get(vm)?.stale[host]
}

/** Hardly any guest was ever near a fence: for the others, all that it takes to fold them need not be read. */
async function isFenceNamed(log: Log, host: string, vm: string): Promise<boolean> {
  for await (const { message } of log.read({ after: 0, subject: decisions(vm) }))
    if (message.is === 'event' && message.event.type === 'Fenced')
      if (message.event.data.host === host) return true
  return false
}

/** Has the target of this very attempt been fenced? */
export async function isFenced(
  log: Log,
  { vm, migration, attempt }: Pick<Command, 'vm' | 'migration' | 'attempt'>,
): Promise<boolean> {
  const found = migrationOf(await foldHistory(log, vm), migration)?.attempt
  return found?.number === attempt && found.fence !== undefined
}

/** Ends it and says so; unlike clearing, which spares what has run (D6). */
export async function endStale(
  vm: string,
  { fence, migration, attempt, admission, traceparent }: StaleCopy,
  { host, driver, clock, say }: Needs,
): Promise<EventOf<'TargetCleared'>> {
  const found = (await driver.inspect()).find((copy) => copy.vm === vm)?.state
  await driver.release(vm)
  say.warn({ vm, migration, attempt, fence: fence.position, found }, 'ended a stale copy')
  const about = { vm, migration, attempt, ...(traceparent === undefined ? {} : { traceparent }) }
  const data = { admission, ...(found === undefined ? {} : { found }) }
  return saysCleared(about, fence.id, data, { host, clock })
}

/** What a host says of a copy that it ended by itself: not because of a command, but because of what stands in the log. */
export const saysCleared = (
  about: Pick<EventOf<'TargetCleared'>, 'vm' | 'migration' | 'attempt' | 'traceparent'>,
  causationid: string,
  data: EventOf<'TargetCleared'>['data'],
  { host, clock }: Pick<Needs, 'host' | 'clock'>,
): EventOf<'TargetCleared'> => ({
  type: 'TargetCleared',
  id: `${about.migration}.${about.attempt}.TargetCleared`,
  writer: { host },
  time: timestamp(clock.now()),
  ...about,
  causationid,
  data,
})

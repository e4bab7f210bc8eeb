import type { EventOf } from '@ferry/schemas/event'
import { timestamp } from '@ferry/events/clock'
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

/** An agent that begins looks at what is here before it obeys or reports: nobody hears of a copy that should not be. */
export async function endStaleCopies(needs: Needs): Promise<EventOf<'TargetCleared'>[]> {
  const facts: EventOf<'TargetCleared'>[] = []
  for (const { vm } of await needs.driver.inspect()) {
    const stale = await staleCopy(needs.log, needs.host, vm).catch((error: unknown) => {
      // The other guests of this host are not held up by it; whoever must know about this one asks again.
      if (!(error instanceof NewerLog)) throw error
      needs.say.error({ vm, err: error }, 'only a newer agent can say what becomes of this guest')
    })
    if (stale !== undefined) facts.push(await endStale(vm, stale, needs))
  }
  return facts
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

import type { EventOf, Writer } from '@ferry/schemas/event'
import type { DataOf } from '@ferry/schemas/messages'
import type { Place } from './migration.ts'

/**
 * What speaks against the log itself. Whoever misses in it what he has seen there raises an alarm, in the log, so that
 * those without a memory stop as well; a recovery answers the alarms that it names, and begins a new life of the log.
 *
 * Positions are used again after a loss. What somebody remembers is therefore worth something in one life only: a
 * recovery has compared the whole fleet, so whatever was seen in a life before it is answered.
 */
export type Alarms = {
  /** 0 at first, and one more with each recovery. */
  life: number
  /** The position of the last valid recovery: what the next one must name. */
  head: number
  /** Not answered yet, by who raised it. */
  standing: { [who: string]: Alarm }
  recovery?: Recovery
}

/** `host`: it was raised by one. */
export type Alarm = Place & DataOf<'LogBehind'> & { readonly who: string; readonly host?: string }
export type Recovery = Place & DataOf<'LogRecovered'> & { readonly id: string }

export const noAlarms = (): Alarms => ({ life: 0, head: 0, standing: {} })

/** While this is so nothing is decided, started or resumed. */
export const isStopped = ({ standing }: Alarms): boolean => Object.keys(standing).length > 0

/** @returns why the event is void, or undefined when it counts. */
export function evolve(
  alarms: Alarms,
  event: EventOf<'LogBehind' | 'LogRecovered'>,
  place: Place,
): string | undefined {
  if (event.type === 'LogBehind') {
    const { life } = event.data
    if (life < alarms.life)
      return `it is about life ${life} of the log, and position ${alarms.head} answered for that`
    const { writer } = event
    const who = nameOf(writer)
    alarms.standing[who] = {
      ...place,
      ...event.data,
      who,
      ...('host' in writer ? { host: writer.host } : {}),
    }
    return undefined
  }
  const { after, answers } = event.data
  if (after !== alarms.head)
    return `it answers after ${after}, but by then the last answer was ${alarms.head}`
  const standing = Object.values(alarms.standing)
  // Higher than any life that somebody has seen: the recovery before may have been lost with the tail.
  alarms.life = 1 + Math.max(alarms.life, ...standing.map(({ life }) => life))
  alarms.head = place.position
  alarms.recovery = { ...place, ...event.data, id: event.id }
  alarms.standing = Object.fromEntries(
    standing
      .filter(({ position }) => !answers.includes(position))
      .map((alarm) => [alarm.who, alarm]),
  )
  return undefined
}

export const nameOf = (writer: Writer): string =>
  'host' in writer ? writer.host : `coordinator ${writer.coordinator}`

import type { Entry } from '@ferry/events/entry'
import { isCommand } from '@ferry/events/migration'
import type { Limits } from '@ferry/schemas/policy'
import { causeSentence, failureSentence, hostRefusalSentence } from '@ferry/events/sentences'
import { duration, rate, size, timeOfDay } from './words.ts'

/** One entry of the log as one line. */
export function describeEntry({ position, storedAt, subject, message }: Entry): string {
  const place = `#${position} ${timeOfDay(storedAt)}`
  if (message.is === 'void') return `${place} void on ${subject}: ${message.why}`
  if (message.is === 'unknown')
    return `${place} ${message.type}, which this version does not know, on ${subject}`
  const { event } = message
  const who = 'host' in event.writer ? event.writer.host : event.writer.coordinator
  const what =
    'migration' in event
      ? ` ${event.vm} ${event.migration}.${event.attempt}`
      : 'vm' in event
        ? ` ${event.vm}`
        : ''
  const more = details(event)
  return `${place} ${who}: ${event.type}${isCommand(event) ? ` → ${event.data.host}` : ''}${what}${more === '' ? '' : ` (${more})`}`
}

type Event = Extract<Entry['message'], { is: 'event' }>['event']

function details(event: Event): string {
  switch (event.type) {
    case 'MigrationRequested':
      return `from ${event.data.source} to ${event.data.target ?? 'any host'}, by ${event.data.by}`
    case 'CancelAsked':
      return `by ${event.data.by}`
    case 'LimitsSet':
      return `${limitsText(event.data)}, by ${event.data.by}`
    case 'Admitted':
      return `${event.data.source} → ${event.data.target}`
    case 'RoundPassed':
      return `round ${event.data.round}, ${size(event.data.remainingBytes)} left`
    case 'SourcePaused':
      return event.data.offer === undefined ? '' : 'the target may commit before all of it is there'
    case 'TargetFetching':
      return event.data.isBroken
        ? 'it runs, and what it lacks does not come any more'
        : 'it runs, and the rest of its memory is on its way'
    case 'Performed':
      return `${size(event.data.bytes)} in ${event.data.rounds} rounds${event.data.isDirect === true ? ', directly' : ''}`
    case 'Committed':
      return `${size(event.data.bytes)} ${event.data.endFrameAt === undefined ? 'by the word of its source' : 'checked'}`
    case 'Cancelled':
    case 'Retried':
    case 'Abandoned':
      return causeSentence(event.data.cause)
    case 'BeginRefused':
    case 'PrepareRefused':
    case 'StartRefused':
      return hostRefusalSentence(event.data.refusal)
    case 'PerformFailed':
    case 'ReceiveFailed':
    case 'TargetNeverRan':
      return failureSentence(event.data.failure)
    case 'SourceResumed':
      if (event.data.leftPaused === true) return 'somebody else has paused it: left so'
      return event.data.wasPaused ? 'it had been paused' : 'it had never stopped'
    case 'DoubtRaised':
      return event.data.question
    case 'Fenced':
    case 'FenceFailed':
      return `${event.data.host}, by ${event.data.by}: ${event.data.evidence}`
    case 'TargetCleared':
      return event.data.found === undefined ? '' : `its stale copy was ${event.data.found}`
    case 'CommandUnknown':
      return event.data.command
    case 'StartOrdered':
      return `on ${event.data.host}`
    case 'HostReported':
      return event.data.guests.map(({ vm, state }) => `${vm} ${state}`).join(', ') || 'no guests'
    case 'ConnectionRefused':
      return `${event.data.why} from ${event.data.remoteAddress}${event.data.times > 1 ? `, ${event.data.times} times` : ''}`
    case 'ProgressSampled':
      return `${size(event.data.remainingBytes)} left, ${duration(event.data.expectedDowntimeMs)} expected`
    default:
      return ''
  }
}

export function limitsText({ bandwidthBytesPerSecond, downtimeMs }: Limits): string {
  const bandwidth =
    bandwidthBytesPerSecond === null
      ? 'any bandwidth'
      : bandwidthBytesPerSecond && rate(bandwidthBytesPerSecond)
  const downtime = downtimeMs === undefined ? undefined : `downtime ${duration(downtimeMs)}`
  return [bandwidth, downtime].filter((text) => text !== undefined).join(', ')
}

import type { Connection } from '@ferry/events/log/connect'
import type { Entry } from '@ferry/events/entry'
import { historyOf } from '@ferry/events/history'
import type { Log } from '@ferry/events/log'
import { causeSentence } from '@ferry/events/sentences'
import { filters, hostSubject } from '@ferry/events/subjects'
import { timelineOf } from '@ferry/events/timeline'
import type { AttemptTimeline, ClockReading, Timeline } from '@ferry/events/timeline'
import { Exit, exits } from './context.ts'
import { limitsText } from './describe.ts'
import { READING } from './reading.ts'
import { dateAndTime, duration, rate, size, table, timeOfDay } from './words.ts'

/** Reads one migration's story out of the log. No coordinator is needed for it. */
export async function readTimeline(
  { log }: Pick<Connection, 'log'>,
  id: string,
): Promise<Timeline> {
  const vm = await guestOf(log, id)
  const entries = await collect(historyOf(log, vm, READING))

  const clocks = new Map<string, ClockReading>()
  for (const host of hostsIn(entries)) {
    const report = (await log.last(hostSubject(host), READING))?.message
    const clock =
      report?.is === 'event' && report.event.type === 'HostReported'
        ? report.event.data.clock
        : undefined
    if (clock !== undefined) clocks.set(host, clock)
  }
  const timeline = timelineOf(id, entries, (host) => clocks.get(host))
  if (timeline === undefined)
    throw new Exit(exits.refused, `There is no migration ${id} in the log.`)
  return timeline
}

async function guestOf(log: Log, id: string): Promise<string> {
  const decisions = log.read({ after: 0, subject: filters.allDecisions, ...READING })
  for await (const { message } of decisions)
    if (
      message.is === 'event' &&
      message.event.type === 'MigrationRequested' &&
      message.event.migration === id
    )
      return message.event.vm
  throw new Exit(exits.refused, `There is no migration ${id} in the log.`)
}

async function collect(entries: AsyncIterable<Entry>): Promise<Entry[]> {
  const all: Entry[] = []
  for await (const entry of entries) all.push(entry)
  return all
}

function hostsIn(entries: readonly Entry[]): Set<string> {
  const hosts = new Set<string>()
  for (const { message } of entries)
    if (message.is === 'event' && message.event.type === 'Admitted')
      hosts.add(message.event.data.source).add(message.event.data.target)
  return hosts
}

/** The post-mortem as text. */
export function printTimeline(timeline: Timeline): string {
  const { migration, vm, source, by, requested, phase, end, attempts, limits, voids } = timeline
  const last = attempts.at(-1)
  const target = last?.target ?? 'a host that was never chosen'
  const lines = [
    `${migration}: ${vm} from ${source} to ${target}: ${outcome(timeline)}`,
    `asked for by ${by} at ${dateAndTime(requested.storedAt)} UTC, position ${requested.position}` +
      (end === undefined
        ? `; now ${phase}`
        : `; ended at position ${end.position}, ${duration(end.storedAt - requested.storedAt)} later`),
  ]
  for (const each of limits)
    lines.push(
      `limited anew by ${each.by} at ${timeOfDay(each.storedAt)}, position ${each.position}: ${limitsText(each)}`,
    )
  for (const attempt of attempts) lines.push('', ...printAttempt(attempt, attempts.length > 1))
  for (const { host, command } of end?.openDuties ?? [])
    lines.push('', `${host} still owes an answer to ${command}.`)
  if (voids.length > 0) lines.push('', 'did not count:')
  for (const { position, subject, why } of voids) lines.push(`  #${position} ${subject}: ${why}`)
  return lines.join('\n')
}

function outcome({ phase, end }: Timeline): string {
  if (phase === 'completed') return 'completed'
  if (phase !== 'abandoned') return `not ended, ${phase}`
  const why = end?.cause === undefined ? '' : `: ${causeSentence(end.cause)}`
  return `abandoned${why}${end?.guestLost === true ? '; the guest is lost' : ''}`
}

function printAttempt(attempt: AttemptTimeline, isOneOfMany: boolean): string[] {
  const { number, target, spans, rounds, said, verdict, fence, copy, downtime } = attempt
  const lines: string[] = []
  if (isOneOfMany) lines.push(`attempt ${number}${target === undefined ? '' : `, to ${target}`}`)
  lines.push(
    ...indented([
      ['phase', 'length', 'from', 'position'],
      ...spans.map(({ phase, ms, from, isOpen }) => [
        phase,
        `${duration(ms)}${isOpen ? ' so far' : ''}`,
        timeOfDay(from.storedAt),
        `#${from.position}`,
      ]),
    ]),
  )
  if (rounds.length > 0)
    lines.push(
      '',
      ...indented([
        ['round', 'sent', 'left', 'rate', 'gets dirty', 'expected downtime'],
        ...rounds.map((round) => [
          String(round.round),
          size(round.transferredBytes),
          size(round.remainingBytes),
          rate(round.bandwidthBytesPerSecond),
          rate(round.dirtyBytesPerSecond),
          duration(round.expectedDowntimeMs),
        ]),
      ]),
    )
  if (copy !== undefined)
    lines.push('', `  ${size(copy.bytes)} in ${copy.rounds} rounds${howSent(copy)}`)
  if (downtime !== undefined) {
    const where = downtime.on === 'target' ? '' : ', and it ran on at home'
    const error = Number.isNaN(downtime.errorMs)
      ? " (the hosts' clocks were not compared)"
      : downtime.errorMs === 0
        ? ''
        : ` ± ${duration(downtime.errorMs)}`
    lines.push('', `  downtime ${duration(downtime.ms)}${error}${where}`)
    lines.push(...indented(downtime.parts.map(({ what, ms }) => [`  + ${duration(ms)}`, what])))
  }
  if (verdict !== undefined)
    lines.push(
      '',
      `  decided by #${verdict.position}: ${verdict.type}, written by ${verdict.writer}` +
        (verdict.cause === undefined ? '' : `, because ${causeSentence(verdict.cause)}`),
    )
  if (fence !== undefined)
    lines.push(
      '',
      `  #${fence.position} ${fence.host} was fenced by ${fence.by}: ${fence.evidence}`,
    )
  const sides = [...new Set(said.map(({ who }) => who))]
  lines.push('', '  who said what:')
  for (const who of sides) {
    const words = said
      .filter((each) => each.who === who)
      .map(({ position, what }) => `#${position} ${what}`)
    lines.push(...indented([[`  ${who}`, words.join(', ')]]))
  }
  return lines
}

const indented = (rows: readonly (readonly string[])[]): string[] =>
  rows.length === 0
    ? []
    : table(rows)
        .split('\n')
        .map((line) => `  ${line}`)

/** Nobody but its hypervisors has seen an image that went directly. */
const howSent = ({ isDirect, digest }: NonNullable<AttemptTimeline['copy']>): string =>
  isDirect
    ? ', directly: the target took the word of the source for it'
    : `; both ends have digest ${digest}`

import type { Event } from '@ferry/schemas/event'
import { messages } from '@ferry/schemas/messages'
import type { Kind } from '@ferry/schemas/messages'

/** The subject of every message, and the streams they stand in: the only place that spells one. */

export const streams = {
  /** Everything that matters, so that one sequence orders all of it. */
  log: {
    name: 'FERRY',
    subjects: [
      'ferry.decision.*',
      'ferry.admission',
      'ferry.plan.*',
      'ferry.command.*.*.*',
      'ferry.fact.*.*.*',
      'ferry.verdict.*.*.*',
      'ferry.host.*',
      'ferry.coordinator.*',
      'ferry.alarm.>',
    ],
  },
  /** Samples for whoever watches: many, and worth nothing tomorrow. */
  progress: { name: 'FERRY_PROGRESS', subjects: ['ferry.progress.*.*'] },
} as const

/** The template of each kind, for the documents that describe the log to other languages. */
export const templates: Readonly<Record<Kind, string>> = {
  decision: 'ferry.decision.{vm}',
  admission: 'ferry.admission',
  command: 'ferry.command.{host}.{vm}.{command}',
  fact: 'ferry.fact.{host}.{vm}.{fact}',
  verdict: 'ferry.verdict.{target}.{migration}.{attempt}',
  host: 'ferry.host.{host}',
  coordinator: 'ferry.coordinator.{coordinator}',
  alarm: 'ferry.alarm.{role}.{writer}',
  recovery: 'ferry.alarm.answered',
  progress: 'ferry.progress.{host}.{vm}',
}

/**
 * The one subject on which an event counts. A fact's host is its writer, so nobody speaks for another (I9).
 *
 * @returns undefined when the writer is not of the kind that may say this.
 */
export function subjectOf(event: Event): string | undefined {
  const { writer, data } = event
  const host = 'host' in writer ? writer.host : undefined
  const coordinator = 'coordinator' in writer ? writer.coordinator : undefined
  switch (messages[event.type].kind) {
    case 'decision':
      return coordinator !== undefined && 'vm' in event ? decisions(event.vm) : undefined
    case 'admission':
      return coordinator === undefined ? undefined : templates.admission
    case 'command':
      return coordinator !== undefined && 'vm' in event && 'host' in data
        ? commands(data.host, event.vm, event.type)
        : undefined
    case 'fact':
      return host !== undefined && 'vm' in event ? facts(host, event.vm, event.type) : undefined
    case 'verdict':
      return verdictSubject(event)
    case 'host':
      return host === undefined ? undefined : hostSubject(host)
    case 'coordinator':
      return coordinator === undefined ? undefined : `ferry.coordinator.${token(coordinator)}`
    case 'alarm':
      return host === undefined
        ? `ferry.alarm.coordinator.${token(coordinator ?? '')}`
        : `ferry.alarm.host.${token(host)}`
    case 'recovery':
      return coordinator === undefined ? undefined : templates.recovery
    case 'progress':
      return host !== undefined && 'vm' in event ? progress(host, event.vm) : undefined
  }
}

/** Only the target itself can commit; only a coordinator cancels. */
function verdictSubject(event: Event): string | undefined {
  if (event.type !== 'Committed' && event.type !== 'Cancelled') return undefined
  const { writer, data, migration, attempt } = event
  const mayWrite =
    event.type === 'Committed'
      ? 'host' in writer && writer.host === data.target
      : 'coordinator' in writer
  return mayWrite ? verdicts(data.target, migration, attempt) : undefined
}

export const decisions = (vm: string) => `ferry.decision.${token(vm)}`

export const commands = (host: string, vm: string, command: string) =>
  `ferry.command.${token(host)}.${token(vm)}.${command}`

export const facts = (host: string, vm: string, fact: string) =>
  `ferry.fact.${token(host)}.${token(vm)}.${fact}`

export const verdicts = (target: string, migration: string, attempt: number) =>
  `ferry.verdict.${token(target)}.${migration}.${attempt}`

export const hostSubject = (host: string) => `ferry.host.${token(host)}`

export const progress = (host: string, vm: string) => `ferry.progress.${token(host)}.${token(vm)}`

/** Filters: what a reader asks for. */
export const filters = {
  allDecisions: 'ferry.decision.*',
  commandsFor: (host: string) => `ferry.command.${token(host)}.*.*`,
  factsFrom: (host: string) => `ferry.fact.${token(host)}.*.*`,
  ledger: templates.admission,
  /** Alarms and their answers. */
  alarms: 'ferry.alarm.>',
  recovery: templates.recovery,
  commandsAbout: (vm: string) => `ferry.command.*.${token(vm)}.*`,
  factsAbout: (vm: string) => `ferry.fact.*.${token(vm)}.*`,
  verdictsOn: (migration: string) => `ferry.verdict.*.${migration}.*`,
  progressOf: (vm: string) => `ferry.progress.*.${token(vm)}`,
} as const

/** The verbs of the request API; `ferry.api.*` is in no stream. */
export const apiGroup = 'ferry.api'

/**
 * A name as one token of a subject, of a register's key or of a consumer's name. NATS splits at dots, reads `*` and
 * `>` as wildcards and takes no white space; all of them, and anything that is not plain ASCII, become =XX.
 */
export const token = (name: string): string =>
  encodeURIComponent(name)
    .replaceAll(
      /[.*!'()~]/g,
      (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
    )
    .replaceAll('%', '=')

export const nameOf = (encoded: string): string => decodeURIComponent(encoded.replaceAll('=', '%'))

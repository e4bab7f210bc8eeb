import type { MessageName, NamesAbout, NamesOf } from '@ferry/schemas/messages'

/**
 * A migration as a table. What runs where, whom the coordinator asks for what, and where each answer leads:
 * the README's picture, the question "what next", the lists of what may be cancelled, and the tests are all
 * read from here.
 *
 * No phase ends by time alone: a silent host is asked again, because only its own word can tell. Time makes the
 * coordinator write something that is safe to write at any time, such as the verdict `Cancelled`.
 */
export type Phase = {
  /** What goes on, for people. */
  readonly meaning: string
  /** The one host whose vCPUs may run. `nobody` is the downtime. */
  readonly runsOn: 'source' | 'target' | 'nobody'
  /** What is asked for, and asked again, until one of the answers is in the log. */
  readonly asks: readonly Ask[]
  /** What moves the migration, and where to. */
  readonly on: { readonly [Name in MoverName]?: PhaseName }
  /** What may also be said here: it is remembered and moves nothing. Anything else is void. */
  readonly notes: readonly MoverName[]
}

export type Ask = {
  readonly command: CommandName
  readonly of: Role
  readonly answers: readonly FactName[]
}

export type Role = 'source' | 'target'

export type PhaseName =
  | 'queued'
  | 'beginning'
  | 'preparing'
  | 'performing'
  | 'switching'
  | 'activating'
  | 'inDoubt'
  | 'confirming'
  | 'completed'
  | 'cancelling'
  | 'abandoned'

export type CommandName = NamesOf<'command'> & NamesAbout<'migration'>
/** The answers of hosts, each of which one of the two may give. That it does not know a command, either may say. */
export type FactName = Exclude<NamesOf<'fact'> & NamesAbout<'migration'>, 'CommandUnknown'>
export type VerdictName = NamesOf<'verdict'>

/** Everything but a command can move a migration. */
type MoverName = Exclude<MessageName & NamesAbout<'migration'>, CommandName>

const perform: Ask = {
  command: 'Perform',
  of: 'source',
  answers: ['Performed', 'PerformFailed'],
}

const finish: Ask = {
  command: 'Finish',
  of: 'target',
  answers: ['TargetRunning', 'TargetNeverRan', 'ReceiveFailed', 'TargetCleared'],
}

/** What the hosts said about the copy may reach the log after the verdict did. */
const lateCopyFacts = [
  'RoundPassed',
  'SourcePaused',
  'Performed',
  'PerformFailed',
  'ReceiveFailed',
] as const satisfies readonly FactName[]

export const phases: Readonly<Record<PhaseName, Phase>> = {
  queued: {
    meaning: 'waits for a slot',
    runsOn: 'source',
    asks: [],
    on: { Admitted: 'beginning', Abandoned: 'abandoned' },
    notes: ['CancelAsked', 'LimitsSet'],
  },
  beginning: {
    meaning: 'the source says whether the guest may leave, and what it needs',
    runsOn: 'source',
    asks: [{ command: 'Begin', of: 'source', answers: ['MigrationBegun', 'BeginRefused'] }],
    on: { MigrationBegun: 'preparing', Committed: 'activating', Cancelled: 'cancelling' },
    notes: ['BeginRefused', 'CancelAsked', 'LimitsSet', 'CommandUnknown'],
  },
  preparing: {
    meaning: 'the target makes the receiving guest and opens a transfer',
    runsOn: 'source',
    asks: [{ command: 'Prepare', of: 'target', answers: ['TargetPrepared', 'PrepareRefused'] }],
    on: { TargetPrepared: 'performing', Committed: 'activating', Cancelled: 'cancelling' },
    notes: ['PrepareRefused', 'CancelAsked', 'LimitsSet', 'CommandUnknown'],
  },
  performing: {
    meaning: 'memory is copied while the guest runs',
    runsOn: 'source',
    asks: [perform, finish],
    on: {
      SourcePaused: 'switching',
      Performed: 'switching',
      Committed: 'activating',
      Cancelled: 'cancelling',
    },
    notes: [
      'RoundPassed',
      'PerformFailed',
      'ReceiveFailed',
      'CancelAsked',
      'LimitsSet',
      'CommandUnknown',
    ],
  },
  switching: {
    meaning: 'the guest is paused; the target takes the rest and writes the verdict',
    runsOn: 'nobody',
    asks: [perform, finish],
    on: { Committed: 'activating', Cancelled: 'cancelling' },
    notes: [...lateCopyFacts, 'CancelAsked', 'LimitsSet', 'CommandUnknown'],
  },
  activating: {
    meaning: 'the verdict is Committed; the target starts the guest',
    runsOn: 'target',
    asks: [finish],
    on: { TargetRunning: 'confirming', Fenced: 'cancelling', DoubtRaised: 'inDoubt' },
    notes: [...lateCopyFacts, 'TargetFetching', 'TargetNeverRan', 'CancelAsked', 'CommandUnknown'],
  },
  inDoubt: {
    meaning:
      'Committed, and the target does not answer: it, or a fence, must say what became of the guest',
    runsOn: 'target',
    asks: [finish],
    on: { TargetRunning: 'confirming', Fenced: 'cancelling' },
    notes: [
      ...lateCopyFacts,
      'TargetFetching',
      'TargetNeverRan',
      'FenceFailed',
      'CancelAsked',
      'CommandUnknown',
    ],
  },
  confirming: {
    meaning: 'the guest runs on the target; the source lets go of its copy',
    runsOn: 'target',
    asks: [{ command: 'Confirm', of: 'source', answers: ['SourceReleased'] }],
    on: { Completed: 'completed' },
    notes: [...lateCopyFacts, 'TargetFetching', 'SourceReleased', 'CancelAsked', 'CommandUnknown'],
  },
  completed: {
    meaning: 'the guest runs on the target',
    runsOn: 'target',
    asks: [],
    on: {},
    notes: ['SourceReleased', 'Performed', 'RoundPassed'],
  },
  cancelling: {
    meaning: 'the verdict is Cancelled; the target clears its copy, the source runs on',
    runsOn: 'source',
    asks: [
      { command: 'Cancel', of: 'source', answers: ['SourceResumed', 'SourceLost'] },
      { command: 'Cancel', of: 'target', answers: ['TargetCleared'] },
    ],
    on: { Retried: 'queued', Abandoned: 'abandoned' },
    notes: [
      ...lateCopyFacts,
      'MigrationBegun',
      'BeginRefused',
      'TargetPrepared',
      'PrepareRefused',
      'TargetFetching',
      'TargetNeverRan',
      'SourceResumed',
      'SourceLost',
      'TargetCleared',
      'CancelAsked',
      'CommandUnknown',
    ],
  },
  abandoned: {
    meaning: 'the guest runs on the source',
    runsOn: 'source',
    asks: [],
    on: {},
    notes: ['SourceResumed', 'SourceLost', 'TargetCleared'],
  },
}

/** Which of the two hosts may say each fact. Anybody else's word for it is void (I9). */
export const saidBy: Readonly<Record<FactName, Role>> = {
  MigrationBegun: 'source',
  BeginRefused: 'source',
  RoundPassed: 'source',
  SourcePaused: 'source',
  Performed: 'source',
  PerformFailed: 'source',
  SourceReleased: 'source',
  SourceResumed: 'source',
  SourceLost: 'source',
  TargetPrepared: 'target',
  PrepareRefused: 'target',
  ReceiveFailed: 'target',
  TargetFetching: 'target',
  TargetRunning: 'target',
  TargetNeverRan: 'target',
  TargetCleared: 'target',
}

export const isEnded = (phase: string): boolean => phase === 'completed' || phase === 'abandoned'

/** From these the verdict `Cancelled` can still be written; whether it wins, the log decides. */
export const isCancellable = (phase: PhaseName): boolean => phases[phase].on.Cancelled !== undefined

/** Here a fence is an answer. */
export const isFenceable = (phase: PhaseName): boolean => phases[phase].on.Fenced !== undefined

/** The facts that answer a command, by the rows that ask for it. */
export function answersTo(command: CommandName, of: Role): readonly FactName[] {
  for (const { asks } of Object.values(phases))
    for (const ask of asks) if (ask.command === command && ask.of === of) return ask.answers
  return []
}

/** Said again and again, each time of the present. */
export const isSeries = (name: FactName): boolean =>
  name === 'RoundPassed' || name === 'TargetFetching'

export const isFactName = (name: string): name is FactName => Object.hasOwn(saidBy, name)

import { median } from '../../bench/figures.ts'
import { nameOf } from './cells.ts'
import type { Row } from './matrix.ts'

/** What was found, as a page; a part that was not run is left out. */
export function report(results: {
  readonly failover?: readonly Row[]
  readonly alone?: readonly Row[]
  readonly matrix?: readonly Row[]
}): string {
  const { failover = [], alone = [], matrix = [] } = results
  return [
    ...(failover.length === 0 ? [] : failoverSection(failover)),
    ...(alone.length === 0 ? [] : aloneSection(alone)),
    ...(matrix.length === 0 ? [] : matrixSection(matrix)),
    ...brokenSection([...failover, ...alone, ...matrix]),
  ].join('\n')
}

/** One cell as a line. */
export function inWords({ cell, result }: Row): string {
  const { outcome, downtimeMs, isHit, broken } = result
  const parts = [
    outcome,
    `downtime ${milliseconds(downtimeMs)}`,
    stepOf(result),
    ...(isHit ? [] : ['the blow came too late']),
    ...broken.map((what) => `BROKEN: ${what}`),
  ]
  return `${nameOf(cell)}: ${parts.join(' · ')}`
}

function failoverSection(rows: readonly Row[]): string[] {
  const phases = [...new Set(rows.map(({ cell }) => cell.phase))]
  return [
    '## When the leader is killed',
    '',
    "Three coordinators; `kill -9` of the leader while only a leader can take the next step. From the kill to the next coordinator's command, as nats-server stored it (ms).",
    '',
    ...markdown(
      ['while', 'times', 'median', 'least', 'worst', 'next step'],
      [...phases, undefined].map((phase) => {
        const these = rows.filter(({ cell }) => phase === undefined || cell.phase === phase)
        const steps = [...new Set(these.map(({ result }) => result.nextStep ?? 'none'))]
        return [
          phase ?? 'all',
          `${these.length}`,
          ...spread(these.map(({ result }) => result.nextStepMs)),
          steps.join(', '),
        ]
      }),
    ),
    '',
  ]
}

function aloneSection(rows: readonly Row[]): string[] {
  const of = (victim: string) =>
    rows.filter(({ cell }) => cell.victim === victim).map(({ result }) => result.downtimeMs)
  const [withThem, without] = [of('nobody'), of('all coordinators')]
  const ratio = median(known(without)) / median(known(withThem))
  return [
    '## When no coordinator lives',
    '',
    "All coordinators are killed while memory is copied, and started again when the guest runs on the target; by turns with migrations in which they live. Downtime by QEMU's own STOP and RESUME (ms).",
    '',
    ...markdown(
      ['coordinators', 'times', 'median', 'least', 'worst'],
      [
        ['alive', `${withThem.length}`, ...spread(withThem)],
        ['all killed', `${without.length}`, ...spread(without)],
      ],
    ),
    '',
    `Ratio of the medians: ${ratio.toFixed(2)}.`,
    '',
  ]
}

function matrixSection(rows: readonly Row[]): string[] {
  return [
    '## Every victim, in every phase',
    '',
    'One guest, two hosts, two coordinators. What was killed is started again at once (QEMU is not); what was stopped (SIGSTOP) or cut off (a link that passes',
    'nothing and closes nothing) comes back after 8 s, longer than every lease. After each: one QEMU runs, and never two did; its memory is whole and its counter went on;',
    'the log and both hosts agree with the world; no event and no command stands in the log twice.',
    '',
    "*downtime*: the longest time between QEMU's STOP and the next RESUME on either host. Short phases are held open until the blow has fallen: what that costs, the rows of `nobody` show.",
    '*next step*: from the blow to the next command, decision or verdict in the log that was not on its way by then.',
    '',
    ...markdown(
      ['phase', 'victim', 'how', 'outcome', 'downtime', 'next step'],
      rows.map(({ cell, result }) => [
        cell.phase,
        cell.victim,
        cell.way,
        result.isHit ? result.outcome : `${result.outcome} (the blow came too late)`,
        milliseconds(result.downtimeMs),
        stepOf(result),
      ]),
    ),
    '',
  ]
}

function brokenSection(rows: readonly Row[]): string[] {
  const broken = rows.filter(({ result }) => result.broken.length > 0)
  const missed = rows.filter(({ result }) => !result.isHit)
  return [
    `${rows.length} cells: ${broken.length} broke a rule, ${missed.length} were not hit in their phase.`,
    ...broken.map((row) => `- ${inWords(row)}`),
    '',
  ]
}

const stepOf = ({ nextStep, nextStepMs }: Row['result']): string =>
  nextStep === undefined ? 'none needed' : `${nextStep} after ${milliseconds(nextStepMs)}`

const milliseconds = (ms: number | undefined): string =>
  ms === undefined ? '–' : `${Math.round(ms)} ms`

const known = (values: readonly (number | undefined)[]): number[] =>
  values.filter((value) => value !== undefined)

function spread(values: readonly (number | undefined)[]): string[] {
  const all = known(values)
  return [median(all), Math.min(...all), Math.max(...all)].map((value) => `${Math.round(value)}`)
}

const markdown = (head: readonly string[], rows: readonly (readonly string[])[]): string[] =>
  [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`)

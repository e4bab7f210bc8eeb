import { arrived, median, medians } from './figures.ts'
import type { Move } from './figures.ts'

export type Results = {
  readonly guests: readonly string[]
  readonly ways: readonly string[]
  readonly moves: ReadonlyMap<string, readonly Move[]>
  readonly rounds: number
  readonly machine: string
  readonly memoryMiB: number
  readonly downtimeMs: number
  readonly limitMs: number
}

/** The figures as a page: medians, ratios to the bare script of the same run, and where Ferry's time goes. */
export function report(results: Results): string {
  const { guests, rounds, machine, memoryMiB, downtimeMs, limitMs } = results
  return [
    '# What moving a guest costs',
    '',
    `Written by \`pnpm bench --rounds ${rounds}\`: ${machine}.`,
    '',
    "Each guest is moved by a bare QMP script over plain TCP, by the same script with QEMU's own TLS (a pre-shared key), and by",
    `Ferry, by turns in one run, ${rounds} times, after one round that is not counted. The guest is started anew each time and works`,
    `for a second and a half before. ${memoryMiB} MiB of memory; a downtime of ${downtimeMs} ms is aimed at; a migration that has not`,
    `arrived after ${limitMs / 1000} s is given up. Medians, and the range in brackets.`,
    '',
    "- *total*: from the wish until the source's QEMU is gone; starting the target's QEMU is part of it, for all three. Ferry: from the request to `Completed`.",
    '- *copy*: from the order to copy until the guest runs on the target.',
    "- *downtime*: from STOP on the source to RESUME on the target, by QEMU's own times.",
    "- *rate*: the bytes of the image by the time from the order to copy until the source's QEMU has said that all is out.",
    '',
    'The quiet guest writes 4 MiB eighteen times a second, the full one as well and has 999 MiB that are not empty, the busy one writes',
    '99 MiB without rest. Its vCPU takes one of the two cores; the two QEMUs and, for Ferry, the two agents share what is left.',
    ...guests.flatMap((guest) => ['', `## The ${guest} guest`, '', ...comparison(results, guest)]),
    '',
    "## Where Ferry's time goes",
    '',
    "From the request to `Completed`, by the log server's clock (ms):",
    '',
    ...breakdown(guests, (guest) => accountsOf(results, guest).map(({ spans }) => spans)),
    '',
    "Inside the switchover, from the source's pause to the first instruction on the target (ms):",
    '',
    ...breakdown(guests, (guest) => accountsOf(results, guest).map(({ switchover }) => switchover)),
    '',
  ].join('\n')
}

function comparison({ ways, moves }: Results, guest: string): string[] {
  const of = (way: string) => moves.get(`${guest}/${way}`) ?? []
  const bare = arrived(of(ways[0] ?? ''))
  const rows = ways.map((way) => {
    const all = of(way)
    const there = arrived(all)
    const rates = there.length > 0 ? there : all
    return [
      way,
      `${there.length} of ${all.length}`,
      figure(
        there.map((move) => move.totalMs),
        bare.map((move) => move.totalMs),
      ),
      figure(
        there.map((move) => move.copyMs),
        bare.map((move) => move.copyMs),
      ),
      figure(
        there.map((move) => move.downtimeMs),
        bare.map((move) => move.downtimeMs),
      ),
      `${(median(rates.map((move) => move.bitsPerSecond)) / 1e9).toFixed(2)} Gbit/s`,
    ]
  })
  return markdown(['', 'arrived', 'total ms', 'copy ms', 'downtime ms', 'rate'], rows)
}

const accountsOf = ({ moves }: Results, guest: string) => arrived(moves.get(`${guest}/Ferry`) ?? [])

/** A median, its range, and how many times the median of others it is. */
export function figure(values: readonly number[], others: readonly number[]): string {
  if (values.length === 0) return '–'
  const [least, most] = [Math.min(...values), Math.max(...values)]
  const ratio = values === others ? 1 : median(values) / median(others)
  return `${median(values).toFixed(0)} (${least.toFixed(0)}–${most.toFixed(0)}), ×${ratio.toFixed(2)}`
}

/** A column of medians for each guest, with a row for every part that any of its records has. */
export function breakdown(
  guests: readonly string[],
  recordsOf: (guest: string) => readonly (Readonly<Record<string, number>> | undefined)[],
): string[] {
  const columns = guests.map((guest) => medians(recordsOf(guest)))
  const names = [...new Set(columns.flatMap((column) => column.map(([name]) => name)))]
  const rows = names.map((name) => [
    name,
    ...columns.map((column) => (column.find(([each]) => each === name)?.[1] ?? 0).toFixed(1)),
  ])
  return markdown(['', ...guests], rows)
}

export const markdown = (head: readonly string[], rows: readonly (readonly string[])[]): string[] =>
  [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`)

import { median } from './figures.ts'
import { breakdown, figure, markdown } from './report.ts'

/** One move of a guest of libvirt's, measured from outside. */
export type Moved = {
  /** `virsh`: from its start to its end. Ferry: from the request to `Completed`. */
  readonly totalMs: number
  /** From the source's STOP to the target's RESUME, by QEMU's own times. */
  readonly downtimeMs: number
  readonly wireBytes: number
  /** Ferry's own account of where the time went. */
  readonly spans?: Readonly<Record<string, number>>
  readonly switchover?: Readonly<Record<string, number>>
}

export type Compared = {
  readonly guests: readonly string[]
  /** All are measured by the first. */
  readonly ways: readonly string[]
  /** Those that encrypt are measured by one that does as well. */
  readonly encrypted: readonly string[]
  /** Ferry's, which say where their time went. */
  readonly accounts: Readonly<Record<string, string>>
  readonly suspendedAfterS: number
  readonly moves: ReadonlyMap<string, readonly Moved[]>
  readonly rounds: number
  readonly machine: string
  /** What else the machine did, by its load average of one minute, before and behind. */
  readonly loads: readonly [number, number]
  readonly memoryMiB: number
  readonly downtimeMs: number
}

/** The figures as a section: medians, ranges, and ratios to the first way of the same run. */
export function compared(results: Compared): string {
  const { guests, ways, encrypted, rounds, machine, memoryMiB, downtimeMs, moves, loads } = results
  const [before, behind] = loads.map((load) => load.toFixed(1))
  const parts = (way: string, of: (moved: Moved) => Readonly<Record<string, number>> | undefined) =>
    breakdown(guests, (guest) => (moves.get(`${guest}/${way}`) ?? []).map(of))
  return [
    '# What moving a guest of libvirt costs',
    '',
    `Written by \`pnpm bench libvirt --rounds ${rounds} --only ${guests.join()}\`: ${machine}.`,
    '',
    `Each guest is moved by \`virsh migrate --live\`, in the clear and with \`--tls\`, and by Ferry, encrypted and with \`--direct\`, by turns, ${rounds} times each after one round`,
    'that is not counted, there and back between two libvirtds in namespaces of their own on this machine; who goes first changes with each round. It stays the same guest, and',
    `rests for a second and a half before each move. ${memoryMiB} MiB of memory; a downtime of ${downtimeMs} ms is aimed at; virsh suspends a guest that has not arrived after ${results.suspendedAfterS} s`,
    '(`--timeout-suspend`). Medians, the range in brackets, and the ratio: to virsh in the clear, and once more, of those that encrypt, to virsh with `--tls`.',
    `The machine's load was ${before} before and ${behind} behind it.`,
    '',
    '- *total*: virsh: from its start to its end. Ferry: from the request to `Completed`, when the source has let go of its copy too.',
    "- *downtime*: from STOP on the source to RESUME on the target, by QEMU's own times, through a second monitor that all ways have.",
    "- *wire*: what passed the network while it lasted. virsh: the cable between the hosts, in both directions. Ferry: that and all of the loopback, the log's part among it.",
    ...guests.flatMap((guest) => [
      '',
      `## The ${guest} guest`,
      '',
      ...comparison(results, guest, ways),
      '',
      ...comparison(results, guest, encrypted),
    ]),
    '',
    ...Object.entries(results.accounts).flatMap(([way, title]) => [
      `## Where the time of ${title} goes with libvirt`,
      '',
      "From the request to `Completed`, by the log server's clock (ms):",
      '',
      ...parts(way, ({ spans }) => spans),
      '',
      "Inside the switchover, from the source's pause to the first instruction on the target (ms):",
      '',
      ...parts(way, ({ switchover }) => switchover),
      '',
    ]),
  ].join('\n')
}

/** One line for each way; the ratios are those to the first. */
function comparison({ moves }: Compared, guest: string, ways: readonly string[]): string[] {
  const of = (way: string) => moves.get(`${guest}/${way}`) ?? []
  const first = of(ways[0] ?? '')
  const row = (way: string) => {
    const all = of(way)
    const against = (number: (moved: Moved) => number) => {
      const values = all.map(number)
      return figure(values, all === first ? values : first.map(number))
    }
    return [
      way,
      against(({ totalMs }) => totalMs),
      against(({ downtimeMs }) => downtimeMs),
      `${(median(all.map(({ wireBytes }) => wireBytes)) / 1e6).toFixed(1)} MB`,
    ]
  }
  return markdown(['', 'total ms', 'downtime ms', 'wire'], ways.map(row))
}

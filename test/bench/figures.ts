/** One migration, measured from outside. */
export type Move =
  | {
      readonly hasArrived: true
      /** From the wish to the end: the target's QEMU is started, the guest moved, the source's QEMU gone. */
      readonly totalMs: number
      /** From the first byte to the first instruction on the target. */
      readonly copyMs: number
      /** From the source's STOP to the target's RESUME, by QEMU's own times. */
      readonly downtimeMs: number
      readonly bitsPerSecond: number
      /** Ferry's own account of where the time went. */
      readonly spans?: Readonly<Record<string, number>>
      readonly switchover?: Readonly<Record<string, number>>
    }
  | { readonly hasArrived: false; readonly bitsPerSecond: number }

export type Arrived = Extract<Move, { hasArrived: true }>

export const arrived = (moves: readonly Move[]): Arrived[] =>
  moves.filter((move): move is Arrived => move.hasArrived)

/** @returns NaN for no values. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length / 2
  const low = sorted[Math.ceil(middle) - 1] ?? Number.NaN
  const high = sorted[Math.floor(middle)] ?? Number.NaN
  return (low + high) / 2
}

/** The medians of every part that any of the records has. */
export function medians(
  records: readonly (Readonly<Record<string, number>> | undefined)[],
): [string, number][] {
  const names = new Set(records.flatMap((record) => Object.keys(record ?? {})))
  return [...names].map((name) => [name, median(records.map((record) => record?.[name] ?? 0))])
}

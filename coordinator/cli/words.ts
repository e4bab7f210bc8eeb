/** Numbers and moments as people read them. */

const units = [
  { name: 'GiB', bytes: 1024 ** 3 },
  { name: 'MiB', bytes: 1024 ** 2 },
  { name: 'KiB', bytes: 1024 },
]

export function size(bytes: number): string {
  const unit = units.find((each) => bytes >= each.bytes)
  return unit === undefined
    ? `${Math.round(bytes)} B`
    : `${(bytes / unit.bytes).toFixed(1)} ${unit.name}`
}

export const rate = (bytesPerSecond: number): string => `${size(bytesPerSecond)}/s`

export function duration(ms: number): string {
  if (ms < 10) return `${ms.toFixed(1)} ms`
  if (ms < 1000) return `${Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1000).toFixed(2)} s`
  const minutes = Math.floor(ms / 60_000)
  return `${minutes} min ${Math.round((ms - minutes * 60_000) / 1000)} s`
}

/** Time of day with milliseconds, in UTC as the log has it. */
export const timeOfDay = (moment: number): string => new Date(moment).toISOString().slice(11, 23)

export const dateAndTime = (moment: number): string =>
  new Date(moment).toISOString().replace('T', ' ').slice(0, 23)

/** A size as an operator writes it: 100M, 1.5GiB, 65536; with or without "/s". */
export function parseSize(text: string): number | undefined {
  const found = /^(\d+(?:\.\d+)?)\s*([KMG])?(?:i?B)?(?:\/s)?$/i.exec(text.trim())
  if (found === null) return undefined
  const [, number = '', unit = ''] = found
  const factor = { '': 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 }[unit.toUpperCase()]
  return factor === undefined ? undefined : Math.round(Number(number) * factor)
}

/** Columns that line up; the last one is not padded. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  )
  return rows
    .map((row) =>
      row
        .map((cell, at) => (at === row.length - 1 ? cell : cell.padEnd(widths[at] ?? 0)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

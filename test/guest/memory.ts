/** What is wrong with a swept range, in a sentence; undefined when it is whole. `firstBytes`: one byte for each page. */
export function sweepFault(firstBytes: Uint8Array): string | undefined {
  let edges = 0
  for (let page = 1; page < firstBytes.length; page++) {
    const before = firstBytes[page - 1] ?? 0
    const here = firstBytes[page] ?? 0
    if (here === before) continue
    if (here !== ((before - 1) & 0xff)) return `page ${page} holds ${here} behind ${before}`
    edges += 1
    if (edges > 1) return `a second falling edge at page ${page}: ${before} to ${here}`
  }
  return undefined
}

/** Every page's first byte out of a dump of whole pages. */
export function firstBytesOf(dump: Uint8Array, pageBytes: number): Uint8Array {
  return Uint8Array.from(
    { length: dump.length / pageBytes },
    (_, page) => dump[page * pageBytes] ?? 0,
  )
}

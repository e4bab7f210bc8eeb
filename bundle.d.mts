/** From the root. */
type Entry = string

export function run(entry: Entry): Promise<unknown>
export function bundleAll(entries: readonly Entry[], folder: string): Promise<unknown>

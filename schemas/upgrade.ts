/**
 * An older version of a message becomes the present one, one small step for each version. A log lives longer
 * than any program: whoever changes a shape raises its version in `messages.ts` and adds the step here.
 *
 * Older programs read it as well, and take a version that they do not know for what they must not judge. So a version is
 * raised only where nothing else will do: a field that may be absent, and a reason (`reasons.ts`), can be added without.
 * What ends an attempt (`Committed`, `Cancelled`, `Confirm`, `Cancel`) keeps its version for good: a paused guest may be
 * waiting for whoever does not know the next one.
 */

type Data = { readonly [field: string]: unknown }

/** `upgrades.SourcePaused[1]` turns the data of version 1 into the data of version 2. */
export type Upgrades = {
  readonly [name: string]: { readonly [from: number]: (data: Data) => Data }
}

/** No message has an older version yet; `test/schemas/upgrade.test.ts` shows how one is added. */
export const upgrades: Upgrades = {}

/** @returns the data as of version `to`, or undefined where no step is known. */
export function upgrade(
  steps: Upgrades,
  name: string,
  from: number,
  to: number,
  data: Data,
): Data | undefined {
  let now = data
  for (let version = from; version < to; version++) {
    const step = steps[name]?.[version]
    if (step === undefined) return undefined
    now = step(now)
  }
  return now
}

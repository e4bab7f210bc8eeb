import type { Recovery } from '@ferry/events/alarms'
import type { Say } from '@ferry/events/say'
import type { Driver } from './driver.ts'

/**
 * After the log had lost its tail a person said where each guest belongs: this host's copies become that. A whole copy
 * that is given to this host runs (I4: the recorded answer stands for the verdict). Elsewhere, what never ran is cleared,
 * and a copy whose image has left is released when the host that it belongs to reports it running (I2).
 */
export async function settle(
  { guests, without, by, position }: Recovery,
  { host, driver, say }: { readonly host: string; readonly driver: Driver; readonly say: Say },
): Promise<void> {
  const record = new Map(guests.map((guest) => [guest.vm, guest]))
  for (const { vm, state } of await driver.inspect()) {
    const belongs = record.get(vm)
    if (belongs === undefined) continue
    const neverRan = state === 'receiving' || state === 'loaded'
    const isHome = belongs.host === host
    if (isHome && state === 'running') continue
    say.warn({ vm, state, belongs, by, position }, 'put right, as the recovery says')
    if (isHome) await driver.resume(vm)
    else if (neverRan) await driver.clear(vm)
    // Whoever left this host out of the comparison has made sure that nothing runs here: this copy is stale.
    else if (without.includes(host) || (state === 'sent' && belongs.isRunning))
      await driver.release(vm)
  }
}

import { CopyFailed, NeverStarted } from '../../driver.ts'
import type { Moves } from '../../driver.ts'
import { copiesOf, copyOf, madeFor } from './copy.ts'
import type { Copy } from './copy.ts'
import { disksOf } from './disks.ts'
import { roleOf } from './handshake.ts'
import { needsOf } from './listing.ts'
import type { Domain } from './listing.ts'
import type { Notes } from './notes.ts'
import { isAtWork, overIn } from './other-end.ts'
import { performLive, performStill } from './perform.ts'
import { receive } from './receive.ts'
import type { Xl } from './xl.ts'

/** What can be done with guests that are here already. */
export function xenMoves(xl: Xl, notes: Notes): Moves {
  const { clock } = xl
  const look = (vm: string) => lookFor(vm, xl, notes)

  /** Nobody is at work on the guest any more, and its domains are as they will stay. */
  const quiet = async (vm: string, patienceMs?: number): Promise<void> =>
    overIn(await notes.folder(vm), clock, patienceMs)

  const end = async (vm: string): Promise<void> => {
    await quiet(vm, AT_ONCE)
    for (const domain of await xl.domains())
      if (roleOf(domain.name).vm === vm) await xl.destroy(domain)
    await notes.forget(vm)
  }

  /** Only a PV guest is saved, and so paused by us; any other is suspended to be sent. */
  const isSaved = async ({ domid }: Domain): Promise<boolean> => {
    const config = (await xl.configs()).get(domid)
    return config === undefined || needsOf(config).machine === 'pv'
  }

  /** Behind its first instruction: a name that is not changed any more is changed by whoever looks next. */
  const named = async (domain: Domain, vm: string): Promise<void> => {
    if (domain.name !== vm) await xl.rename(domain, vm)
    await notes.forget(vm)
  }

  return {
    inspect: async () => {
      const [domains, configs, all] = await Promise.all([xl.domains(), xl.configs(), notes.all()])
      return copiesOf(domains, all).flatMap((copy) => {
        const config = copy.domain && configs.get(copy.domain.domid)
        const needs = copy.note?.needs ?? (config && needsOf(config))
        // One that came or went while it was asked for is told of the next time.
        if (needs === undefined) return []
        const receives = madeFor(copy)
        const { vm, state } = copy
        return [{ vm, state, needs, ...(receives === undefined ? {} : { receives }) }]
      })
    },

    perform: async (vm, order) => {
      const here = await look(vm)
      if (here?.domain === undefined) throw new CopyFailed({ type: 'GuestGone', vm })
      const folder = await notes.folder(vm)
      // Another process began it: what it sent, and to whom, nobody knows any more.
      if (here.state !== 'running' || here.domain.name !== vm || (await isAtWork(folder)))
        throw new CopyFailed({ type: 'AgentRestarted' })
      const config = (await xl.configs()).get(here.domain.domid)
      if (config === undefined) throw new CopyFailed({ type: 'GuestGone', vm })
      const { machine, memoryBytes } = needsOf(config)
      const leaver = { domain: here.domain, memoryBytes, disks: disksOf(config) }
      if (machine !== 'pv') return performLive(leaver, order, xl, folder)
      checkDowntime(memoryBytes, order.dial.policy())
      return performStill(leaver, order, xl, folder)
    },

    receive: async (vm, order) => {
      const here = await look(vm)
      if (here === undefined) throw new CopyFailed({ type: 'GuestGone', vm })
      const folder = await notes.folder(vm)
      if (here.note === undefined || here.domain !== undefined || (await isAtWork(folder)))
        throw new CopyFailed({ type: 'AgentRestarted' })
      const loaded = await receive(order, xl, folder)
      await notes.write({ ...here.note, isLoaded: true })
      return loaded
    },

    activate: async (vm) => {
      const here = await look(vm)
      if (here === undefined) throw new NeverStarted({ type: 'GuestGone', vm })
      const { domain, state } = here
      if (domain === undefined || state === 'receiving')
        throw new NeverStarted({ type: 'HypervisorFailed', message: 'not all of it came' })
      if (state !== 'running') await xl.unpause(domain)
      const runningAt = clock.now()
      await named(domain, vm)
      return { runningAt }
    },

    release: end,

    resume: async (vm) => {
      if ((await look(vm))?.domain === undefined) return undefined
      await quiet(vm)
      const here = await look(vm)
      // One that has crashed, or shut itself down, is no guest any more.
      if (here?.domain === undefined || here.domain.state === 'ended') return undefined
      const { domain } = here
      const wasPaused = here.state !== 'running'
      // First: one that runs under the other name would look as if it had been sent.
      await named(domain, vm)
      if (domain.state === 'suspended') await xl.resume(domain)
      if (domain.state === 'paused' && (await isSaved(domain))) await xl.unpause(domain)
      const answer = { wasPaused, runningAt: clock.now() }
      // Whatever else is paused now was paused by somebody, and stays so.
      const now = (await look(vm))?.domain
      return now?.state === 'paused' ? { ...answer, leftPaused: true } : answer
    },

    clear: async (vm) => {
      const here = await look(vm)
      // D6: a copy without its note has run, or may have.
      if (here === undefined || madeFor(here) === undefined) return
      await end(vm)
    },

    // Every xl ends by itself.
    close: async () => {},
  }
}

const AT_ONCE = 0

export async function lookFor(vm: string, xl: Xl, notes: Notes): Promise<Copy | undefined> {
  const [domains, note] = await Promise.all([xl.domains(), notes.of(vm)])
  return copyOf(vm, domains, note)
}

/** A network of a gigabit; a policy that allows less says so. */
const STILL_BYTES_PER_SECOND = 100_000_000

/** Xen follows the memory of a PV guest only with shadow paging, which Debian's has not: it stands still meanwhile. */
function checkDowntime(
  memoryBytes: number,
  {
    downtimeMs,
    bandwidthBytesPerSecond = STILL_BYTES_PER_SECOND,
  }: { downtimeMs: number; bandwidthBytesPerSecond?: number | undefined },
): void {
  const neededMs = Math.ceil(
    (memoryBytes / Math.min(bandwidthBytesPerSecond, STILL_BYTES_PER_SECOND)) * 1000,
  )
  if (neededMs > downtimeMs)
    throw new CopyFailed({
      type: 'HypervisorFailed',
      message: `a PV guest cannot be moved while it runs, and stands still for some ${neededMs} ms; allow that with --downtime, or run it as PVH`,
    })
}

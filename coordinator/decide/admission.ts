import type { GuestNeeds } from '@ferry/schemas/guest'
import type { Unfit } from '@ferry/schemas/refusal'
import type { Fleet, Host } from '@ferry/events/fleet'
import { derived, underWay } from '@ferry/events/fleet'
import { runningOn } from '@ferry/events/guest'
import type { Guest } from '@ferry/events/guest'
import { targetOf } from '@ferry/events/migration'
import type { Migration } from '@ferry/events/migration'
import type { World } from './world.ts'

/** Who may start now, and where to. Decided on the ledger, whose order makes each slot be given once (I6). */
export type Admission =
  | { readonly target: string }
  /** Somebody has to end first: the limit, and who stands in it. */
  | { readonly blockedBy: { readonly limit: string; readonly holders: readonly string[] } }
  | { readonly unfit: readonly Considered[] }

export type Considered = { readonly host: string; readonly unfit: Unfit }

export function admit(fleet: Fleet, migration: Migration, world: World): Admission {
  const { limits } = world.rules
  const holders = underWay(fleet).filter((each) => each.attempt.slot !== undefined)
  const ids = (migrations: readonly Migration[]) => migrations.map(({ id }) => id)
  if (holders.length >= limits.fleet)
    return { blockedBy: { limit: `${limits.fleet} in the fleet`, holders: ids(holders) } }
  const leaving = holders.filter((each) => each.source === migration.source)
  if (leaving.length >= limits.perSource)
    return {
      blockedBy: { limit: `${limits.perSource} out of ${migration.source}`, holders: ids(leaving) },
    }

  const guest = fleet.guests.get(migration.vm)
  const needs = guest?.seenOn[migration.source]?.needs
  if (guest === undefined || needs === undefined) return { unfit: [] }
  // Somebody has started it elsewhere since it was asked for: it stays where it is until that is cleared up.
  const elsewhere = runningOn(guest).filter((host) => host !== migration.source)
  if (elsewhere.length > 0) {
    const here = { type: 'GuestAlreadyHere' as const, vm: migration.vm, state: 'running' as const }
    return { unfit: elsewhere.map((host) => ({ host, unfit: here })) }
  }
  const candidates = candidatesFor(fleet, migration, needs, world)
  const fitting = candidates.filter((candidate) => candidate.unfit === undefined)
  if (fitting.length === 0)
    return { unfit: candidates.flatMap(({ host, unfit }) => (unfit ? [{ host, unfit }] : [])) }

  const arrivingAt = (host: string) => holders.filter((each) => targetOf(each) === host)
  const open = fitting.filter(({ host }) => arrivingAt(host).length < limits.perTarget)
  const [first] = fitting
  if (open.length === 0 && first !== undefined)
    return {
      blockedBy: {
        limit: `${limits.perTarget} into ${first.host}`,
        holders: ids(arrivingAt(first.host)),
      },
    }
  return { target: best(open, migration) }
}

/** Every host that the guest could be sent to, with what speaks against it, whatever the slots are. */
export function candidatesFor(
  fleet: Fleet,
  wish: { readonly vm: string; readonly source: string; readonly wanted?: string },
  needs: GuestNeeds,
  world: World,
): Candidate[] {
  const taken = takenMemory(fleet)
  const guest = fleet.guests.get(wish.vm)
  const byItself = guest && takenBy(guest)
  return [...fleet.hosts.values()]
    .filter(
      ({ host }) => host !== wish.source && (wish.wanted === undefined || host === wish.wanted),
    )
    .map((host) => {
      const byOthers = (taken.get(host.host) ?? 0) - (byItself?.get(host.host) ?? 0)
      const freeBytes = Math.max(0, host.report.memoryBytes - byOthers)
      const unfit = whyUnfit(fleet, host, wish, needs, freeBytes, world)
      return { host: host.host, freeBytes, ...(unfit === undefined ? {} : { unfit }) }
    })
}

export type Candidate = {
  readonly host: string
  readonly freeBytes: number
  readonly unfit?: Unfit
}

/** CPU models that mean "what the host has": such a guest can only go where there is the same. */
const copiedModels = new Set(['host', 'max'])

function whyUnfit(
  fleet: Fleet,
  { host, report }: Host,
  { vm, source }: { readonly vm: string; readonly source: string },
  needs: GuestNeeds,
  freeBytes: number,
  world: World,
): Unfit | undefined {
  if (!world.alive.has(host)) return { type: 'HostSilent', host }
  const guest = fleet.guests.get(vm)
  if (guest?.stale[host] !== undefined) return { type: 'StaleCopy', vm }
  const here = guest?.seenOn[host]
  if (here !== undefined) return { type: 'GuestAlreadyHere', vm, state: here.state }
  if (report.hypervisor !== needs.hypervisor)
    return { type: 'OtherHypervisor', needed: needs.hypervisor, found: report.hypervisor }
  if (!report.machines.includes(needs.machine))
    return { type: 'MachineUnsupported', machine: needs.machine }
  if (!report.accelerators.includes(needs.accelerator))
    return { type: 'AcceleratorUnsupported', accelerator: needs.accelerator }
  const isOtherCpu =
    copiedModels.has(needs.cpu) && fleet.hosts.get(source)?.report.cpu !== report.cpu
  if (isOtherCpu || !report.cpuModels.includes(needs.cpu))
    return { type: 'CpuUnsupported', cpu: needs.cpu }
  return needs.memoryBytes > freeBytes
    ? { type: 'NotEnoughMemory', neededBytes: needs.memoryBytes, freeBytes }
    : undefined
}

/** What each host's guests have of its memory, with what is on its way there. */
const takenMemory = derived((fleet): ReadonlyMap<string, number> => {
  const taken = new Map<string, number>()
  for (const guest of fleet.guests.values())
    for (const [host, bytes] of takenBy(guest)) taken.set(host, (taken.get(host) ?? 0) + bytes)
  return taken
})

function takenBy({ seenOn, migration }: Guest): Map<string, number> {
  const taken = new Map<string, number>()
  for (const [host, { needs }] of Object.entries(seenOn)) taken.set(host, needs.memoryBytes)
  const target = migration?.attempt.slot?.target
  if (migration === undefined || target === undefined || migration.end !== undefined) return taken
  const coming = seenOn[migration.source]?.needs.memoryBytes
  if (coming !== undefined && seenOn[target] === undefined) taken.set(target, coming)
  return taken
}

/** A host that was not tried yet, with the most room. */
function best(candidates: readonly Candidate[], { triedTargets }: Migration): string {
  const [first] = candidates.toSorted(
    (a, b) =>
      Number(triedTargets.includes(a.host)) - Number(triedTargets.includes(b.host)) ||
      b.freeBytes - a.freeBytes ||
      (a.host < b.host ? -1 : 1),
  )
  if (first === undefined) throw new Error('a best host was asked of no candidates')
  return first.host
}

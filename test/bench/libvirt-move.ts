import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { systemClock } from '@ferry/events/clock'
import { readTimeline } from '@ferry/coordinator/cli/explain'
import type { LibvirtHosts } from '../lab/libvirt-hosts.ts'
import { countersOf } from '../lab/libvirt-network.ts'
import type { Network } from '../lab/libvirt-network.ts'
import { other } from '../lab/libvirt-stage.ts'
import type { Rack } from '../lab/libvirt-stage.ts'
import type { Lab } from '../real/lab.ts'
import { watchPauses } from '../real/chaos/pauses.ts'
import { until } from '../until.ts'
import type { Moved } from './libvirt-report.ts'

/** Two libvirtds with a cable between them, for virsh; and Ferry's agents beside them, which speak over the loopback. */
export type Place = {
  readonly folder: string
  readonly hosts: LibvirtHosts
  readonly network: Network
  readonly lab: Lab
}

export type Trip = {
  readonly vm: string
  readonly from: Rack
  readonly request: string
  readonly downtimeMs: number
}

export type Way = 'virsh' | 'virsh --tls' | 'Ferry' | 'Ferry, directly'
type Mover = (place: Place, trip: Trip) => Promise<Omit<Moved, 'downtimeMs'>>

/** Moves the guest once; the downtime is taken from outside, for all ways alike, by QEMU's own times on both hosts. */
export async function moveOnce(way: Way, place: Place, trip: Trip): Promise<Moved> {
  const pauses = watchPauses()
  const watch = (rack: Rack) => pauses.watch(rack, join(place.folder, rack, 'log'))
  const isOver = new AbortController()
  try {
    await until('the source to be looked at', () => watch(trip.from))
    const there = until(
      'the target to be looked at',
      async () => isOver.signal.aborted || (await watch(other(trip.from))),
    )
    const moved = await movers[way](place, trip)
    await there
    const downtimeMs = pauses.longestMs()
    if (downtimeMs === undefined) throw new Error('nobody saw the guest stop and go on')
    return { ...moved, downtimeMs }
  } finally {
    isOver.abort()
    pauses.close()
  }
}

const movers: Readonly<Record<Way, Mover>> = {
  virsh: (place, trip) => byVirsh(place, trip),
  'virsh --tls': (place, trip) =>
    byVirsh(place, trip, '--tls', '--tls-destination', other(trip.from)),
  Ferry: (place, trip) => byFerry(place, trip, {}),
  'Ferry, directly': (place, trip) => byFerry(place, trip, { directConnections: 1 }),
}

/** A guest that never gets across is suspended at last, so that every way arrives. */
export const SUSPENDED_AFTER_S = 10

async function byVirsh(
  { hosts, network }: Place,
  { vm, from }: Trip,
  ...how: string[]
): ReturnType<Mover> {
  const uri = (rack: Rack) => `qemu+unix:///system?socket=${hosts.socket(rack)}`
  const address = network.addressOf(other(from))
  const words = ['--connect', uri(from), 'migrate', '--live', vm, uri(other(from)), ...how]
  words.push('--migrateuri', `tcp://${address}`, '--listen-address', address)
  words.push('--timeout', String(SUSPENDED_AFTER_S), '--timeout-suspend')
  const before = await network.passedBytes()
  const began = systemClock.elapsed()
  await promisify(execFile)('virsh', words)
  const totalMs = systemClock.elapsed() - began
  return { totalMs, wireBytes: (await network.passedBytes()) - before }
}

async function byFerry(
  { lab, network }: Place,
  { vm, from, request, downtimeMs }: Trip,
  how: { readonly directConnections?: number },
): ReturnType<Mover> {
  const passed = async () =>
    (await countersOf('lo', process.pid)).received + (await network.passedBytes())
  const ended = lab.event(`${request} to end`, ({ type }) => ends.has(type))
  const before = await passed()
  const began = systemClock.now()
  const policy = { downtimeMs, attempts: 1, ...how }
  await lab.migrate({ request, vm, target: other(from), policy })
  const { type } = await ended
  const wireBytes = (await passed()) - before
  const { attempts, end } = await readTimeline(lab.connection, request)
  if (type !== 'Completed' || end === undefined) throw new Error(`${request} did not arrive`)
  const { spans = [], downtime } = attempts[0] ?? {}
  return {
    totalMs: end.storedAt - began,
    wireBytes,
    spans: Object.fromEntries(spans.map(({ phase, ms }) => [phase, ms])),
    switchover: Object.fromEntries(downtime?.parts.map(({ what, ms }) => [what, ms]) ?? []),
  }
}

const ends = new Set(['Completed', 'Abandoned'])

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { systemClock } from '@ferry/events/clock'
import { busyGuest, fullGuest, quietGuest } from '../guest/boot-sector.ts'
import type { GuestProgram } from '../guest/boot-sector.ts'
import { describeGuest, letGoAll, readMemoryOf } from '../lab/libvirt-guest.ts'
import { openLibvirtHosts } from '../lab/libvirt-hosts.ts'
import { joinHosts, settingsIn } from '../lab/libvirt-network.ts'
import { other, racks } from '../lab/libvirt-stage.ts'
import type { Rack } from '../lab/libvirt-stage.ts'
import { withLab } from '../real/lab.ts'
import type { Lab } from '../real/lab.ts'
import { until } from '../until.ts'
import { WARM_UP_MS } from './bare.ts'
import { SUSPENDED_AFTER_S, moveOnce } from './libvirt-move.ts'
import type { Place } from './libvirt-move.ts'
import { compared } from './libvirt-report.ts'
import type { Moved } from './libvirt-report.ts'
import { loadNow, machine } from './machine.ts'
import { writeSection } from './page.ts'

/**
 * `pnpm bench libvirt [--rounds N]`: the same guests of libvirt moved by `virsh migrate --live` and by Ferry, each
 * encrypted and in the clear, by turns, between the same two libvirtds. Writes its section of RESULTS.md.
 */
const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '10' },
    only: { type: 'string' },
    output: { type: 'string' },
  },
})
const rounds = Number(values.rounds)
if (!Number.isInteger(rounds) || rounds < 1)
  throw new Error(`--rounds ${values.rounds} is no number`)
const output = values.output ?? join(import.meta.dirname, 'RESULTS.md')

const MEMORY_MIB = 1024
/** What libvirt takes as well, where nobody says anything. */
const DOWNTIME_MS = 300

const guests: { readonly [name: string]: GuestProgram } = {
  quiet: quietGuest,
  full: fullGuest,
  busy: busyGuest,
}
const names = values.only?.split(',') ?? ['quiet', 'full', 'busy']
const ways = ['virsh', 'Ferry, directly', 'virsh --tls', 'Ferry'] as const
const encrypted = ['virsh --tls', 'Ferry']
const accounts = { Ferry: 'Ferry', 'Ferry, directly': 'Ferry with `--direct`' }

const loadBefore = loadNow()
const folder = await mkdtemp(join(tmpdir(), 'ferry-'))
const hosts = await openLibvirtHosts(folder, racks, { hasCertificates: true })
const moves = new Map<string, Moved[]>()
try {
  const network = await joinHosts(hosts, racks)
  const settingsOf = settingsIn(folder, hosts, network)
  const options = { hosts: racks, driver: 'libvirt', settingsOf, logLevel: 'warn' } as const
  await withLab(options, async (lab) => {
    try {
      for (const name of names) await moveThereAndBack({ lab, network }, name)
    } finally {
      for (const rack of racks) await letGoAll(join(lab.folder, rack, 'guests'))
    }
  })
} finally {
  await hosts.close()
  await rm(folder, { recursive: true })
}
const loads = [loadBefore, loadNow()] as const
const results = { guests: names, ways, encrypted, accounts, moves, rounds, loads }
const aims = { memoryMiB: MEMORY_MIB, downtimeMs: DOWNTIME_MS, suspendedAfterS: SUSPENDED_AFTER_S }
await writeSection(output, compared({ ...results, ...aims, machine: await machine() }))
console.log(`\n${output}`)

/** Who goes first changes from round to round, so that each has both directions equally often. */
async function moveThereAndBack(place: Omit<Place, 'folder' | 'hosts'>, vm: string) {
  const program = guests[vm] ?? quietGuest
  const guest = { program, memoryMiB: MEMORY_MIB, hasMonitor: true }
  const { lab } = place
  await writeFile(join(lab.folder, 'vms', `${vm}.xml`), await describeGuest(folder, vm, guest))
  await lab.start(vm, 'rack1')
  let from: Rack = 'rack1'
  for (let round = 0; round <= rounds; round++)
    for (const way of round % 2 === 0 ? ways : ways.toReversed()) {
      await untilKnown(lab, vm, from)
      await systemClock.sleep(WARM_UP_MS)
      const request = `${vm}-${round}${way === 'Ferry' ? '' : '-directly'}`
      const trip = { vm, from, request, downtimeMs: DOWNTIME_MS }
      const moved = await moveOnce(way, { ...place, folder, hosts }, trip)
      from = other(from)
      console.log(`${round === 0 ? 'warm-up' : round} ${vm} ${way}: ${inWords(moved)}`)
      const key = `${vm}/${way}`
      if (round > 0) moves.set(key, [...(moves.get(key) ?? []), moved])
    }
  const { fault } = await readMemoryOf(hosts, from, folder, vm, program)
  if (fault !== undefined) throw new Error(`the memory of ${vm} is not whole: ${fault}`)
  await hosts.virsh(from, 'destroy', vm)
}

function untilKnown(lab: Lab, vm: string, rack: Rack): Promise<void> {
  return until(`${vm} to be known on ${rack} only`, async () => {
    const guest = (await lab.fleet()).guests.find((each) => each.vm === vm)
    const copies = guest?.copies.map(({ host, state }) => `${host} ${state}`) ?? []
    return copies.join() === `${rack} running`
  })
}

function inWords({ totalMs, downtimeMs, wireBytes }: Moved): string {
  return `${Math.round(totalMs)} ms in all, ${downtimeMs.toFixed(1)} ms of downtime, ${(wireBytes / 1e6).toFixed(1)} MB`
}

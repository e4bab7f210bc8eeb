import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import type { MigrationView } from '@ferry/schemas/view'
import { workingGuest } from '../guest/boot-sector.ts'
import type { GuestProgram } from '../guest/boot-sector.ts'
import { withLab } from '../real/lab.ts'
import type { Lab } from '../real/lab.ts'
import { until } from '../until.ts'
import { describeGuest, letGoAll, readMemoryOf } from './libvirt-guest.ts'
import { openLibvirtHosts } from './libvirt-hosts.ts'
import type { LibvirtHosts } from './libvirt-hosts.ts'
import { joinHosts, settingsIn } from './libvirt-network.ts'
import type { Network } from './libvirt-network.ts'

/** Whole hosts: a libvirtd each, Ferry's agents as real processes, and one guest, `web1`, that runs on rack1. */
export const racks = ['rack1', 'rack2'] as const
export type Rack = (typeof racks)[number]
export const other = (rack: Rack): Rack => (rack === 'rack1' ? 'rack2' : 'rack1')

/** Hosts, agents and guests share a machine with whatever else it does. */
export const PATIENCE_MS = 180_000

export type Stage = {
  readonly lab: Lab
  readonly hosts: LibvirtHosts
  /** The cable between the hosts, over which their QEMUs may bring images to each other. */
  readonly network: Network
  /** Holds what belongs to the hosts. */
  readonly folder: string
  /** One copy in the world, on that host, running, whole, and going on with its work. */
  readonly onlyOn: (rack: Rack) => Promise<void>
  readonly move: (request: string, target: Rack, policy?: object) => Promise<void>
  readonly ended: (request: string) => Promise<MigrationView>
}

export type StagedGuest = {
  /** Puts what the guest has on the first rack alone: its disks. */
  readonly place?: (hosts: LibvirtHosts) => Promise<void>
  /** @returns libvirt's description; its files go into the folder. */
  readonly describe: (folder: string) => Promise<string>
  /** Waits until it has gone on since this was called last; throws when something of it is not right. */
  readonly goesOn: (hosts: LibvirtHosts, rack: Rack, folder: string) => Promise<void>
}

export async function withGuest(
  guest: StagedGuest,
  work: (stage: Stage) => Promise<void>,
): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-'))
  const hosts = await openLibvirtHosts(folder, racks)
  try {
    const network = await joinHosts(hosts, racks)
    const settingsOf = settingsIn(folder, hosts, network)
    const driver = 'libvirt'
    const options = {
      hosts: racks,
      driver,
      settingsOf,
      isCuttable: true,
      runsIn: hosts.seeing,
    } as const
    await guest.place?.(hosts)
    await withLab(options, async (lab) => {
      await writeFile(join(lab.folder, 'vms', 'web1.xml'), await guest.describe(folder))
      await lab.start('web1', 'rack1')
      const listed = async () => {
        const lists = racks.map((rack) => hosts.virsh(rack, 'list', '--all', '--name'))
        return (await Promise.all(lists)).map((list) => list.trim())
      }
      try {
        // One that has only just begun has next to nothing to be copied yet.
        await guest.goesOn(hosts, 'rack1', folder)
        await work({
          lab,
          hosts,
          network,
          folder,
          onlyOn: async (rack) => {
            const expected = racks.map((each) => (each === rack ? 'web1' : '')).join()
            const isThere = async () => (await listed()).join() === expected
            await until(`web1 to be on ${rack} only`, isThere, PATIENCE_MS)
            assert.match(await hosts.virsh(rack, 'domstate', 'web1'), 'running')
            assert.not.match(await hosts.virsh(rack, 'dumpxml', 'web1'), 'dev.ferry')
            await guest.goesOn(hosts, rack, folder)
          },
          move: async (request, target, policy = {}) => {
            const isKnown = async () =>
              (await lab.fleet()).guests.some(
                ({ vm, copies }) =>
                  vm === 'web1' &&
                  copies.some(({ host, state }) => host === other(target) && state === 'running'),
              )
            await until('the guest to be known as running', isKnown, PATIENCE_MS)
            const isAccepted = async () => {
              const answer = await lab.migrate({ request, vm: 'web1', target, policy })
              // It was seen to run before its start stood in the log.
              const isPending = !answer.accepted && answer.refusal.type === 'StartPending'
              assert.ok(answer.accepted || isPending, JSON.stringify(answer))
              return answer.accepted
            }
            await until(`${request} to be accepted`, isAccepted, PATIENCE_MS)
          },
          ended: (request) => lab.ended(request, PATIENCE_MS),
        })
      } finally {
        for (const rack of racks) await letGoAll(join(lab.folder, rack, 'guests'))
      }
    })
  } finally {
    await hosts.close()
    await rm(folder, { recursive: true })
  }
}

/** Its memory is read and checked; its counter must have gone on. */
export function bootSectorGuest(
  program: GuestProgram = workingGuest,
  memoryMiB = 128,
): StagedGuest {
  let sweeps = 0
  return {
    describe: (folder) => describeGuest(folder, 'web1', { program, memoryMiB }),
    goesOn: async (hosts, rack, folder) => {
      let seen = sweeps
      const hasGoneOn = async () => {
        const memory = await readMemoryOf(hosts, rack, folder, 'web1', program)
        assert.is(memory.fault, undefined)
        seen = memory.sweeps
        return seen > sweeps
      }
      await until('the guest to go on', hasGoneOn, PATIENCE_MS)
      sweeps = seen
    },
  }
}

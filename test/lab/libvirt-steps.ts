import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import type { Driver } from '@ferry/host-agent/driver'
import { libvirtDriver } from '@ferry/host-agent/drivers/libvirt/driver'
import { probeLibvirt } from '@ferry/host-agent/drivers/libvirt/probe'
import type { LibvirtFacts } from '@ferry/host-agent/drivers/libvirt/probe'
import type { Policy } from '@ferry/schemas/policy'
import { everyStep } from '../contract/steps.ts'
import { quietGuest } from '../guest/boot-sector.ts'
import { describeGuest, letGoAll, readMemoryOf } from './libvirt-guest.ts'
import { openLibvirtHosts } from './libvirt-hosts.ts'
import { joinHosts } from './libvirt-network.ts'

/** Cases take turns on hosts of their own: every one has the whole of both. */
export const stepsOfLibvirt = (name: string, policy: Partial<Policy>): void =>
  everyStep(name, {
    atOnce: 2,
    patienceMs: 180_000,
    policy,
    open: async () => {
      const root = await mkdtemp(join(tmpdir(), 'ferry-'))
      const definitions = join(root, 'vms')
      const names = ['source', 'target'] as const
      await mkdir(definitions)
      const xml = await describeGuest(root, 'guest', { program: quietGuest, memoryMiB: 32 })
      await writeFile(join(definitions, 'guest.xml'), xml)
      const lab = await openLibvirtHosts(root, names)
      const network = await joinHosts(lab, names)
      const facts = new Map<string, LibvirtFacts>()
      for (const host of names) {
        const probed = { socket: lab.socket(host), memoryBytes: 2 * 1024 ** 3, clock: systemClock }
        facts.set(host, await probeLibvirt(probed))
      }
      const open = (host: string): Driver => {
        const its = facts.get(host)
        if (its === undefined) throw new Error(`there is no host ${host}`)
        return libvirtDriver({
          socket: lab.socket(host),
          guests: join(root, host, 'guests'),
          images: join(root, host, 'images'),
          definitions,
          directAddress: network.addressOf(host),
          facts: its,
          clock: systemClock,
        })
      }
      return {
        open,
        copies: async () => {
          const found = []
          for (const host of names) {
            const listed = await lab.virsh(host, 'list', '--name')
            if (listed.trim() !== 'guest') continue
            const state = await lab.virsh(host, 'domstate', 'guest')
            found.push({
              host,
              isRunning: state.trim() === 'running',
              memory: () => readMemoryOf(lab, host, root, 'guest', quietGuest),
            })
          }
          return found
        },
        close: async () => {
          await lab.close()
          for (const host of names) await letGoAll(join(root, host, 'guests'))
          await rm(root, { recursive: true })
        },
      }
    },
  })

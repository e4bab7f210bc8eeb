import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { isEnded } from '@ferry/events/phases'
import type { Event } from '@ferry/schemas/event'
import type { MigrationView } from '@ferry/schemas/view'
import { ROOT, openLab } from '../real/lab.ts'
import type { Lab } from '../real/lab.ts'
import { until } from '../until.ts'
import { putPrograms } from './programs.ts'
import { countsOf, defineGuest, hasCard, lastCount } from './xen-guest.ts'
import type { XenGuest } from './xen-guest.ts'
import { GUEST_ADDRESS, LOOK_EVERY_MS, OUTSIDE, openXenHosts, quoted } from './xen-hosts.ts'
import type { XenHosts, XenTool } from './xen-hosts.ts'

/** The agent of a host, and what moves a guest there. */
export type Victim = 'agent' | 'mover'

export const racks = ['rack1', 'rack2'] as const
export type Rack = (typeof racks)[number]
export const other = (rack: Rack): Rack => (rack === 'rack1' ? 'rack2' : 'rack1')

/** nats-server and a coordinator on this machine, and Ferry's agents in two dom0s. */
export type XenFleet = {
  readonly lab: Lab
  readonly hosts: XenHosts
  /** In every dom0 as well, under the same path. */
  readonly folder: string
  /** One guest at a time: there is one disk for them. It is described to Ferry, or defined in the first host's libvirt. */
  readonly start: (vm: string, guest: XenGuest, how?: 'described' | 'defined') => Promise<void>
  readonly startAgent: (rack: Rack) => Promise<void>
  /** In one blow: dom0 takes a second for each. Of two, one may have ended by itself; throws where nobody is there. */
  readonly kill: (rack: Rack, vm: string, victims: readonly Victim[]) => Promise<void>
  readonly move: (request: string, vm: string, target: Rack, policy?: object) => Promise<void>
  readonly ended: (request: string) => Promise<MigrationView>
  /** One domain in the world, on that host, running under its own name, whole, counting on from where it was, and reached by its card. */
  readonly onlyOn: (rack: Rack, vm: string) => Promise<void>
  /** Every number that it has counted to was counted once, on one of the hosts; a move may cut a line in two. */
  readonly countedOnce: (vm: string, moves: number) => Promise<void>
  /** The names of the guests' domains in both hosts, with their states. */
  readonly domains: () => Promise<Readonly<Record<Rack, string>>>
  /** Ends every guest, waits until Ferry has seen it, and gives the next one a fresh disk. */
  readonly clear: () => Promise<void>
  readonly close: () => Promise<void>
}

/** With a guest of its own, whose name begins the ids of all that it asks for. */
export type XenStory = {
  readonly title: string
  readonly tell: (fleet: XenFleet, vm: string) => Promise<void>
}

export const PATIENCE_MS = 300_000
export const ENDED_MS = 900_000
/** Nothing here is as fast as on iron: what a policy allows has to be as slow. */
export const patient = { downtimeMs: 120_000, attempts: 20 }
const PORT = 7100
/** For guests of Xen. */
export const VIRSH = ['virsh', '-c', 'xen:///system']

const drivers = {
  xl: { driver: 'xen' },
  libxl: { driver: 'libvirt', libvirt: { uri: 'xen:///system' } },
} as const

/** Stories on the same two hosts, whose agents take long to come up: those of one tool after those of the other. */
export function xenStories(
  name: string,
  stories: Readonly<Partial<Record<XenTool, readonly XenStory[]>>>,
): void {
  const test = suite(name)
  let folder: string
  let hosts: XenHosts
  let fleet: XenFleet | undefined
  test.before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'ferry-'))
    hosts = await openXenHosts(folder, racks)
  })
  test.after(async () => {
    await fleet?.close()
    await hosts.close()
    await rm(folder, { recursive: true })
  })
  const inTurn = tools.flatMap((tool) => (stories[tool] ?? []).map((story) => ({ tool, story })))
  for (const [nth, { tool, story }] of inTurn.entries())
    test(story.title, async () => {
      const began = performance.now()
      if (tool !== inTurn[nth - 1]?.tool) {
        await fleet?.close()
        fleet = undefined
        fleet = await openFleet(hosts, folder, tool)
      }
      if (fleet === undefined) throw new Error('the hosts have no agents')
      try {
        await story.tell(fleet, `web${nth + 1}`)
        await fleet.clear()
      } catch (error) {
        for (const rack of racks) console.log((await hosts.shell(rack, WHAT_WAS_SAID)).text)
        console.log(await fleet.lab.coordinator.log())
        throw error
      }
      console.log(`${story.title}: ${Math.round((performance.now() - began) / 1000)} s`)
    })
  test.run()
}

const tools = ['xl', 'libxl'] as const satisfies readonly XenTool[]
const WHAT_WAS_SAID = 'cat /var/log/agent.log /var/log/libvirtd.log; xl list'

async function openFleet(hosts: XenHosts, folder: string, tool: XenTool): Promise<XenFleet> {
  if (tool === 'libxl') await Promise.all(racks.map(hosts.startLibvirt))
  const lab = await openLab({ hosts: [], driver: 'simulated' })
  const programs = join(folder, 'programs')
  const definitions = join(folder, `vms-${tool}`)
  const state = `/var/lib/ferry-${tool}`
  await mkdir(definitions)
  await putPrograms(['ferry.ts', 'host-agent/mover/process.ts'], programs)
  const mover = join(ROOT, 'host-agent', 'mover', 'mover.mjs')
  const program = `import ${JSON.stringify(join(programs, 'host-agent/mover/process.mjs'))}`
  const startAgent = async (rack: Rack) => {
    const config = join(folder, `${rack}-${tool}.json`)
    const words = `${join(programs, 'ferry.mjs')} agent --config ${config}`
    await hosts.shell(
      rack,
      `setsid node ${words} >> /var/log/agent.log 2>&1 < /dev/null & echo $! > /run/agent.pid`,
    )
  }
  for (const rack of racks) {
    const settings = {
      host: rack,
      servers: [`nats://${OUTSIDE}:${new URL(lab.server()).port}`],
      stateDirectory: state,
      definitions,
      ...drivers[tool],
      listen: { host: hosts.address(rack), port: PORT },
    }
    await writeFile(join(folder, `${rack}-${tool}.json`), JSON.stringify(settings))
    await hosts.run(rack, 'mkdir', '-p', join(mover, '..'))
    await hosts.shell(rack, `echo ${quoted(program)} > ${mover}`)
    await startAgent(rack)
  }
  const areAlive = async () =>
    (await lab.fleet()).hosts.filter(({ isAlive }) => isAlive).length === racks.length
  await until('the agents to be alive', areAlive, PATIENCE_MS, LOOK_EVERY_MS)

  const domains = async () => {
    const lists = await Promise.all(racks.map((rack) => hosts.shell(rack, LIST)))
    const [rack1 = '', rack2 = ''] = lists.map(({ text }) => text.trim())
    return { rack1, rack2 }
  }
  const counts = new Map<string, number>()
  let isReachable = false
  return {
    lab,
    hosts,
    folder,
    domains,
    start: async (vm, guest, how = 'described') => {
      isReachable = hasCard(guest)
      await defineGuest(how === 'described' ? definitions : folder, tool, vm, guest)
      if (how === 'defined') await hosts.run('rack1', ...VIRSH, 'define', join(folder, `${vm}.xml`))
      const isSaid = (event: Event) => event.type === 'GuestStarted' && event.vm === vm
      const started = lab.event(`the start of ${vm}`, isSaid, PATIENCE_MS)
      await lab.start(vm, 'rack1', PATIENCE_MS)
      // Where it is small it counts before that is said.
      await started
      const hasCounted = async () => ((await lastCount(hosts, 'rack1', vm))?.count ?? 0) > 2
      await until(`${vm} to count`, hasCounted, PATIENCE_MS, LOOK_EVERY_MS)
    },
    startAgent,
    kill: async (rack, vm, victims) => {
      const files = { agent: '/run/agent.pid', mover: `${state}/movers/${vm}/mover.pid` }
      const pids = victims.map((victim) => `$(cat ${files[victim]})`).join(' ')
      await hosts.run(rack, 'bash', '-c', `kill -9 ${pids}`)
    },
    move: async (request, vm, target, policy = {}) => {
      const isKnown = async () =>
        (await lab.fleet()).guests.some(
          (guest) =>
            guest.vm === vm &&
            guest.copies.some(({ host, state }) => host === other(target) && state === 'running'),
        )
      await until(`${vm} to be known as running`, isKnown, PATIENCE_MS, LOOK_EVERY_MS)
      const answer = await lab.migrate({ request, vm, target, policy })
      assert.ok(answer.accepted, JSON.stringify(answer))
    },
    ended: async (request) => {
      const hasEnded = async () => isEnded((await lab.status(request)).phase)
      await until(`${request} to end`, hasEnded, ENDED_MS, LOOK_EVERY_MS)
      return lab.status(request)
    },
    onlyOn: async (rack, vm) => {
      const isAlone = async () => {
        const there = await domains()
        return there[rack] === `${vm} running` && there[other(rack)] === ''
      }
      await until(`${vm} to be on ${rack} only`, isAlone, PATIENCE_MS, LOOK_EVERY_MS)
      const before = counts.get(vm) ?? 0
      const goesOn = async () => ((await lastCount(hosts, rack, vm))?.count ?? 0) > before
      await until(`${vm} to go on`, goesOn, PATIENCE_MS, LOOK_EVERY_MS)
      const seen = await lastCount(hosts, rack, vm)
      assert.is(seen?.fault, undefined)
      counts.set(vm, seen?.count ?? before)
      if (!isReachable) return
      const isReached = async () =>
        (await hosts.shell(rack, `busybox ping -c 1 -w 10 ${GUEST_ADDRESS}`)).code === 0
      await until(`${vm} to answer on ${rack}`, isReached, PATIENCE_MS, LOOK_EVERY_MS)
    },
    countedOnce: async (vm, moves) => {
      const lists = await Promise.all(racks.map((rack) => countsOf(hosts, rack, vm)))
      const all = lists.flat()
      const numbers = new Set(all.map(({ count }) => count))
      assert.is(numbers.size, all.length, 'a number was counted to twice')
      const missing = Math.max(...numbers) + 1 - numbers.size
      assert.ok(missing <= moves, `${missing} numbers are missing after ${moves} moves`)
      assert.is(
        all.find(({ fault }) => fault !== undefined),
        undefined,
      )
    },
    clear: async () => {
      for (const rack of racks) await hosts.shell(rack, END_ALL)
      await hosts.renewDisk()
      const areGone = async () =>
        (await lab.fleet()).guests.every(({ copies }) => copies.length === 0)
      await until('the guests to be gone', areGone, PATIENCE_MS, LOOK_EVERY_MS)
    },
    close: async () => {
      for (const rack of racks) await hosts.shell(rack, 'kill -9 $(cat /run/agent.pid)')
      await lab.close()
    },
  }
}

const END_ALL = `for domain in $(xl list | awk 'NR > 1 && $2 != 0 { print $2 }'); do xl destroy $domain; done`

/** `xl list` in short: what is neither paused, shut down nor going runs. */
const LIST = `xl list | awk 'NR > 1 && $2 != 0 { print $1, ($5 ~ /^..-/ && $5 ~ /^...-/ && $5 !~ /d$/ ? "running" : $5) }'`

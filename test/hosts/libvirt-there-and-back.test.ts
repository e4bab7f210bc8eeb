import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { MigrationView } from '@ferry/schemas/view'
import { workingGuest } from '../guest/boot-sector.ts'
import { describeGuest, readMemoryOf } from '../lab/libvirt-guest.ts'
import { openLibvirtHosts } from '../lab/libvirt-hosts.ts'
import type { LibvirtHosts } from '../lab/libvirt-hosts.ts'
import { withLab } from '../real/lab.ts'
import type { Lab } from '../real/lab.ts'
import { until } from '../until.ts'

/** Whole hosts: a libvirtd each, and Ferry's agents as real processes. */
const test = suite('a guest of libvirt')

const racks = ['rack1', 'rack2'] as const
type Rack = (typeof racks)[number]
const other = (rack: Rack): Rack => (rack === 'rack1' ? 'rack2' : 'rack1')
const PATIENCE_MS = 180_000

type Stage = {
  readonly lab: Lab
  readonly hosts: LibvirtHosts
  /** One copy in the world, on that host, running, with its memory whole and its counter going on. */
  readonly onlyOn: (rack: Rack) => Promise<void>
  readonly move: (request: string, target: Rack, policy?: object) => Promise<void>
  readonly ended: (request: string) => Promise<MigrationView>
}

async function withGuest(work: (stage: Stage) => Promise<void>): Promise<void> {
  const root = await mkdtemp(join(tmpdir(), 'ferry-'))
  const hosts = await openLibvirtHosts(root, racks)
  const settingsOf = (host: string) => ({
    libvirt: { socket: hosts.socket(host), images: join(root, host, 'images') },
  })
  try {
    const options = { hosts: racks, driver: 'libvirt', settingsOf, isCuttable: true } as const
    await withLab(options, async (lab) => {
      const guest = { program: workingGuest, memoryMiB: 128 }
      await writeFile(join(lab.folder, 'vms', 'web1.xml'), await describeGuest(root, 'web1', guest))
      await lab.start('web1', 'rack1')
      let sweeps = 0
      const memory = async (rack: Rack) => {
        const seen = await readMemoryOf(hosts, rack, root, 'web1', workingGuest)
        assert.is(seen.fault, undefined)
        return seen.sweeps
      }
      const running = async () => {
        const lists = racks.map((rack) => hosts.virsh(rack, 'list', '--all', '--name'))
        return (await Promise.all(lists)).map((list) => list.trim())
      }
      await work({
        lab,
        hosts,
        onlyOn: async (rack) => {
          await until(
            `web1 to be on ${rack} only`,
            async () =>
              (await running()).join() ===
              racks.map((each) => (each === rack ? 'web1' : '')).join(),
            PATIENCE_MS,
          )
          assert.match(await hosts.virsh(rack, 'domstate', 'web1'), 'running')
          assert.not.match(await hosts.virsh(rack, 'dumpxml', 'web1'), 'dev.ferry')
          await until('the guest to go on', async () => (await memory(rack)) > sweeps, PATIENCE_MS)
          sweeps = await memory(rack)
        },
        move: async (request, target, policy = {}) => {
          const isKnown = async () =>
            (await lab.fleet()).guests.some(
              ({ vm, copies }) =>
                vm === 'web1' &&
                copies.some(({ host, state }) => host === other(target) && state === 'running'),
            )
          await until('the guest to be known as running', isKnown, PATIENCE_MS)
          const answer = await lab.migrate({ request, vm: 'web1', target, policy })
          assert.ok(answer.accepted, JSON.stringify(answer))
        },
        ended: (request) => lab.ended(request, PATIENCE_MS),
      })
    })
  } finally {
    await hosts.close()
    await rm(root, { recursive: true })
  }
}

test('moves there and back five times, and every page of its memory is right each time', () =>
  withGuest(async ({ onlyOn, move, ended }) => {
    for (let nth = 1; nth <= 10; nth++) {
      const target = nth % 2 === 1 ? 'rack2' : 'rack1'
      await move(`move-${nth}`, target)
      const { phase, attempt } = await ended(`move-${nth}`)
      assert.is(phase, 'completed')
      assert.is(attempt, 1)
      await onlyOn(target)
    }
  }))

/** A copy that takes some seconds. */
const slowly = { bandwidthBytesPerSecond: 5_000_000, downtimeMs: 20_000 }

const moments = {
  'while it copies': (lab: Lab) => {
    const { passedBytes } = lab.link('rack2')
    return until('the image to flow', () => passedBytes() > 1_000_000, PATIENCE_MS)
  },
  'while it switches over': (lab: Lab) =>
    lab.event('the pause', ({ type }) => type === 'SourcePaused').then(() => {}),
} as const

for (const [when, moment] of Object.entries(moments))
  for (const killed of racks)
    test(`arrives though the agent of its ${killed === 'rack1' ? 'source' : 'target'} is killed ${when}`, () =>
      withGuest(async ({ lab, onlyOn, move, ended }) => {
        const reached = moment(lab)
        await move('m1', 'rack2', slowly)
        await reached
        await lab.agent(killed).end('SIGKILL')
        lab.agent(killed).start()
        const { phase, attempt } = await ended('m1')
        assert.is(phase, 'completed')
        assert.is(attempt, 1)
        await onlyOn('rack2')
      }))

for (const killed of racks)
  test(`tries again when what moves it at its ${killed === 'rack1' ? 'source' : 'target'} is killed`, () =>
    withGuest(async ({ lab, onlyOn, move, ended }) => {
      const reached = moments['while it copies'](lab)
      await move('m1', 'rack2', slowly)
      await reached
      const file = join(lab.folder, killed, 'movers', 'web1', 'mover.pid')
      process.kill(Number(await readFile(file, 'utf8')), 'SIGKILL')
      const { phase, attempt } = await ended('m1')
      assert.is(phase, 'completed')
      assert.is(attempt, 2)
      await onlyOn('rack2')
    }))

test.run()

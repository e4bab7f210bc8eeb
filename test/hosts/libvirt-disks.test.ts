import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { appendFile, mkdir, open, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { killIn } from '../kill.ts'
import type { LibvirtHosts } from '../lab/libvirt-hosts.ts'
import { PATIENCE_MS, racks, withGuest } from '../lab/libvirt-stage.ts'
import type { Rack, Stage } from '../lab/libvirt-stage.ts'
import { WRITES, WRITES_AT, linuxGuest } from '../lab/linux-guest.ts'
import type { LinuxDisk } from '../lab/linux-guest.ts'
import { until } from '../until.ts'

/**
 * A Linux guest whose two disks lie on its host's own storage, one raw and one qcow2. It writes its count to both, and
 * says a number only when both have it on disk; behind where it writes they hold 48 MiB that nobody touches.
 */
const test = suite('disks that travel with their guest')

const disks: readonly LinuxDisk[] = [
  { path: '/var/lib/libvirt/images/web1-a.img', format: 'raw' },
  { path: '/var/lib/libvirt/images/web1-b.qcow2', format: 'qcow2' },
]
const SIZE_BYTES = 64 * 2 ** 20
const LARGE_BYTES = 8 * 2 ** 30
const STILL_FROM = 8 * 2 ** 20
const SECTOR_BYTES = 512

const imageOn = (hosts: LibvirtHosts, rack: Rack, { path }: LinuxDisk) =>
  join(hosts.storage(rack), path.slice('/var/lib/libvirt/'.length))

const run = (program: string, ...words: string[]) => promisify(execFile)(program, words)

function diskGuest(sizeBytes = SIZE_BYTES) {
  const guest = linuxGuest(disks)
  const content = randomBytes(48 * 2 ** 20)
  const digest = digestOf(content)
  return {
    guest: {
      ...guest,
      place: async (hosts: LibvirtHosts) => {
        for (const disk of disks) {
          const image = imageOn(hosts, 'rack1', disk)
          for (const rack of ['rack1', 'rack2'] as const)
            await mkdir(dirname(imageOn(hosts, rack, disk)), { recursive: true })
          const raw = `${image}.raw`
          const file = await open(raw, 'w')
          await file.truncate(sizeBytes)
          await file.write(content, 0, content.length, STILL_FROM)
          await file.close()
          await run('qemu-img', 'convert', '-f', 'raw', '-O', disk.format, raw, image)
          await rm(raw)
        }
      },
    },
    /** All that the guest has said is on both disks, and what it never touched is as it was. */
    disksAreWhole: async (hosts: LibvirtHosts, rack: Rack) => {
      for (const disk of disks) {
        const said = guest.ticks()
        await withContent(imageOn(hosts, rack, disk), disk, async (read, foundBytes) => {
          assert.is(foundBytes, sizeBytes)
          assert.is(digestOf(await read(STILL_FROM, content.length)), digest)
          const written = await read(WRITES_AT * SECTOR_BYTES, WRITES * SECTOR_BYTES)
          for (let number = Math.max(1, said - WRITES / 2); number <= said; number++) {
            const at = (number % WRITES) * SECTOR_BYTES
            const text = written.subarray(at, at + SECTOR_BYTES).toString('latin1')
            const found = Number(/^tick (\d+)\n\0*$/.exec(text)?.[1])
            // It may have come round again since it was heard.
            assert.ok(found >= number && (found - number) % WRITES === 0, `${number}: ${text}`)
          }
        })
      }
    },
  }
}

const digestOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

async function withContent(
  image: string,
  { format }: LinuxDisk,
  look: (read: Read, sizeBytes: number) => Promise<void>,
): Promise<void> {
  const raw = `${image}.seen`
  await run('qemu-img', 'convert', '-U', '-f', format, '-O', 'raw', image, raw)
  const file = await open(raw)
  try {
    const read: Read = async (offset, length) =>
      (await file.read(Buffer.alloc(length), 0, length, offset)).buffer
    await look(read, (await file.stat()).size)
  } finally {
    await file.close()
    await rm(raw)
  }
}

type Read = (offset: number, length: number) => Promise<Buffer>

const along = { copyDisks: true }

function sideOf(rack: Rack): string {
  return rack === 'rack1' ? 'source' : 'target'
}

const isOn = (hosts: LibvirtHosts, rack: Rack, disk: LinuxDisk) =>
  stat(imageOn(hosts, rack, disk)).then(
    () => true,
    () => false,
  )

/** So slowly that they would not arrive while anybody here waits. What a busy machine has still to write may take some time. */
const slowly = { ...along, bandwidthBytesPerSecond: 2 ** 19, downtimeMs: 20_000 }

const whileDisksFlow = ({ lab }: Stage) => {
  const { passedBytes } = lab.link('rack2')
  return until('the disks to flow', () => passedBytes() > 2 ** 20, PATIENCE_MS)
}

/** Between two attempts there is nothing to limit. */
const hurry = ({ lab }: Stage, migration: string) => {
  const limit = () => lab.ferry('limit', migration, '--bandwidth', 'none')
  const isTaken = async () => (await limit()).code === 0
  return until(`${migration} to take another limit`, isTaken, PATIENCE_MS)
}

test('move with it, there and back and there again, and nothing of them is lost', async () => {
  const { guest, disksAreWhole } = diskGuest()
  const targets: readonly Rack[] = ['rack2', 'rack1', 'rack2', 'rack1', 'rack2']
  await withGuest(guest, async ({ lab, hosts, onlyOn, move, ended }) => {
    await onlyOn('rack1')
    for (const [nth, target] of targets.entries()) {
      // From QEMU to QEMU in the last two.
      await move(`move-${nth}`, target, nth < 3 ? along : { ...along, directConnections: nth - 2 })
      const { phase, attempt } = await ended(`move-${nth}`)
      if (phase !== 'completed') console.log((await lab.ferry('explain', `move-${nth}`)).stdout)
      assert.is(phase, 'completed')
      assert.is(attempt, 1)
      await onlyOn(target)
      await disksAreWhole(hosts, target)
    }
  })
})

test('are moved with what is in them, however large they are, and take no more room than before', async () => {
  const { guest, disksAreWhole } = diskGuest(LARGE_BYTES)
  await withGuest(guest, async ({ hosts, onlyOn, move, ended }) => {
    await onlyOn('rack1')
    await move('m1', 'rack2', along)
    const { phase, attempt } = await ended('m1')
    assert.is(phase, 'completed')
    assert.is(attempt, 1)
    await onlyOn('rack2')
    await disksAreWhole(hosts, 'rack2')
    for (const disk of disks) {
      const { blocks } = await stat(imageOn(hosts, 'rack2', disk))
      assert.ok(blocks * SECTOR_BYTES < 2 * SIZE_BYTES, `${disk.path} has ${blocks} blocks`)
    }
  })
})

test('stay where they are unless that is asked for, and where something is in their way', async () => {
  const { guest, disksAreWhole } = diskGuest()
  await withGuest(guest, async (stage) => {
    const { lab, hosts, onlyOn, move, ended } = stage
    await onlyOn('rack1')
    const refused = async (request: string, policy: object) => {
      await move(request, 'rack2', policy)
      assert.is((await ended(request)).phase, 'abandoned')
      return (await lab.ferry('explain', request)).stdout
    }
    assert.match(await refused('not-asked', {}), 'with --copy-disks takes it along')
    const [first, second] = disks
    assert.ok(first !== undefined && second !== undefined)
    const inTheWay = imageOn(hosts, 'rack2', second)
    await writeFile(inTheWay, "somebody's")
    assert.match(await refused('in-the-way', along), `${second.path} is there already`)
    assert.is(await readFile(inTheWay, 'utf8'), "somebody's")
    assert.is(await isOn(hosts, 'rack2', first), false)
    await rm(inTheWay)

    // What a guest has left is written over when it comes back; but not when somebody has used it meanwhile.
    await move('there', 'rack2', along)
    assert.is((await ended('there')).phase, 'completed')
    await onlyOn('rack2')
    const left = imageOn(hosts, 'rack1', first)
    await appendFile(left, 'x')
    await move('back', 'rack1', along)
    assert.is((await ended('back')).phase, 'abandoned')
    assert.match((await lab.ferry('explain', 'back')).stdout, `${first.path} is there already`)
    await onlyOn('rack2')
    await disksAreWhole(hosts, 'rack2')
  })
})

test('are asked about by the doctor of a host: what makes their images must be there, and where they may come to', async () => {
  await withGuest(linuxGuest(), async ({ lab }) => {
    const config = join(lab.folder, 'rack1.json')
    const { stdout } = await lab.ferry('doctor', '--json', '--config', config)
    const checks = JSON.parse(stdout) as readonly { readonly what: string; readonly is: string }[]
    for (const what of ['libvirt', 'qemu-img'])
      assert.is(checks.find((check) => check.what === what)?.is, 'good', stdout)
    // The doctor looks from outside: there, that is no address of this machine.
    assert.is(checks.find((check) => check.what === 'direct images')?.is, 'bad', stdout)
  })
})

test('a copy that is cancelled leaves no image behind', async () => {
  const { guest, disksAreWhole } = diskGuest()
  await withGuest(guest, async (stage) => {
    const { lab, hosts, onlyOn, move, ended } = stage
    await onlyOn('rack1')
    const flowing = whileDisksFlow(stage)
    await move('m1', 'rack2', slowly)
    await flowing
    assert.ok((await lab.cancel('m1')).accepted)
    assert.is((await ended('m1')).phase, 'abandoned')
    for (const disk of disks) assert.is(await isOn(hosts, 'rack2', disk), false)
    await onlyOn('rack1')
    await disksAreWhole(hosts, 'rack1')
  })
})

type Blow = {
  readonly attempt: number
  readonly strike: (stage: Stage, rack: Rack) => Promise<void>
}

/** What QEMU says where a libvirtd that was killed has left something in it. */
const LEFT = "node-name='migration-"

/** Who is killed, and in which attempt the guest then arrives; in the next one where something was left. */
const blows: Readonly<Record<string, Blow>> = {
  'the agent': {
    attempt: 1,
    strike: async ({ lab }: Stage, rack: Rack) => {
      await lab.agent(rack).end('SIGKILL')
      lab.agent(rack).start()
    },
  },
  'what moves them': {
    attempt: 2,
    strike: ({ lab }: Stage, rack: Rack) =>
      killIn(join(lab.folder, rack, 'movers', 'web1', 'mover.pid')),
  },
  libvirtd: {
    attempt: 2,
    strike: async ({ hosts }: Stage, rack: Rack) => {
      await hosts.end(rack, 'SIGKILL')
      await hosts.start(rack)
    },
  },
}

for (const [who, { attempt, strike }] of Object.entries(blows))
  for (const killed of racks)
    test(`arrive though ${who} at the ${sideOf(killed)} is killed while they are copied`, async () => {
      const { guest, disksAreWhole } = diskGuest()
      await withGuest(guest, async (stage) => {
        const { lab, hosts, onlyOn, move, ended } = stage
        await onlyOn('rack1')
        const flowing = whileDisksFlow(stage)
        await move('m1', 'rack2', slowly)
        await flowing
        await strike(stage, killed)
        await hurry(stage, 'm1')
        const found = await ended('m1')
        assert.is(found.phase, 'completed')
        const { stdout } = await lab.ferry('explain', 'm1')
        const isLeft = who === 'libvirtd' && killed === 'rack1' && stdout.includes(LEFT)
        assert.is(found.attempt, attempt + (isLeft ? 1 : 0), stdout)
        await onlyOn('rack2')
        await disksAreWhole(hosts, 'rack2')
      })
    })

test('arrive though a libvirtd that was killed has left in QEMU what an earlier copy needed', async () => {
  const { guest, disksAreWhole } = diskGuest()
  await withGuest(guest, async ({ lab, hosts, onlyOn, move, ended }) => {
    await onlyOn('rack1')
    const left = { driver: 'null-co', 'node-name': 'migration-vdb-storage', size: 2 ** 20 }
    const command = JSON.stringify({ execute: 'blockdev-add', arguments: left })
    await hosts.virsh('rack1', 'qemu-monitor-command', 'web1', command)
    await move('m1', 'rack2', along)
    const { phase, attempt } = await ended('m1')
    assert.is(phase, 'completed')
    assert.is(attempt, 2)
    assert.match((await lab.ferry('explain', 'm1')).stdout, LEFT)
    await onlyOn('rack2')
    await disksAreWhole(hosts, 'rack2')
  })
})

test.run()

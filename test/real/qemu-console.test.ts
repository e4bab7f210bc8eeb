import { mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { folderOf } from '@ferry/host-agent/folders'
import { qemuDriver } from '@ferry/host-agent/drivers/qemu/driver'
import { probeQemu } from '@ferry/host-agent/drivers/qemu/probe'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../until.ts'
import { qemusUnder, withMonitor } from './outside.ts'

const test = suite('what a guest of QEMU says on its serial port')

const KEPT_BYTES = 64 * 1024

/** `mov dx, 0x3f8; mov al, 'x'; 1: out dx, al; jmp 1b` */
const chatter = Buffer.alloc(512)
chatter.set([0xba, 0xf8, 0x03, 0xb0, 0x78, 0xee, 0xeb, 0xfd])
chatter.set([0x55, 0xaa], 510)

/** Not a single file of a folder is larger, whatever the guest has said. */
async function largestIn(folder: string): Promise<number> {
  const names = await readdir(folder)
  return Math.max(...(await Promise.all(names.map(async (name) => sizeOf(join(folder, name))))))
}
const sizeOf = async (path: string) => (await stat(path)).size

test('can be read by its operator, and does not fill the disk of its host', async () => {
  const root = await mkdtemp(join(tmpdir(), 'ferry-'))
  const [binary, guests, definitions] = [
    'qemu-system-x86_64',
    join(root, 'host'),
    join(root, 'vms'),
  ]
  const facts = await probeQemu({
    binary,
    accelerators: ['tcg'],
    memoryBytes: 2 * 1024 ** 3,
    clock: systemClock,
  })
  const driver = qemuDriver({ binary, guests, definitions, facts, clock: systemClock })
  try {
    await mkdir(definitions)
    await writeFile(join(root, 'disk.img'), chatter)
    const disks = [{ path: join(root, 'disk.img'), format: 'raw', interface: 'floppy' }]
    const definition = { memoryMiB: 32, accel: 'tcg', disks }
    await writeFile(join(definitions, 'web1.json'), JSON.stringify(definition))
    assert.ok('needs' in (await driver.start('web1')))
    const folder = folderOf(guests, 'web1')
    // What is read is taken out, so that a second read may come too early for another word.
    let said = ''
    const isFull = async () => {
      said = await withMonitor(folder, async (qmp) =>
        String(await qmp.execute('ringbuf-read', { device: 'serial0', size: 2 * KEPT_BYTES })),
      )
      return said.length === KEPT_BYTES
    }
    await until('it to have said more than is kept', isFull, 60_000, 1000)
    assert.match(said, /x{1000}$/)
    assert.ok((await largestIn(folder)) < KEPT_BYTES)
  } finally {
    await driver.close()
    for (const { pid } of await qemusUnder(root)) process.kill(pid, 'SIGKILL')
    await rm(root, { recursive: true })
  }
})

test.run()

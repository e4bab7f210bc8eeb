import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { qemuDriver } from '@ferry/host-agent/drivers/qemu/driver'
import { probeQemu } from '@ferry/host-agent/drivers/qemu/probe'
import { everyStep } from '../contract/steps.ts'
import { bootSector, quietGuest } from '../guest/boot-sector.ts'
import { qemusUnder, readMemory } from './outside.ts'

const binary = 'qemu-system-x86_64'
const probed = probeQemu({
  binary,
  accelerators: ['tcg'],
  memoryBytes: 2 * 1024 ** 3,
  clock: systemClock,
})

everyStep('qemu', {
  atOnce: 6,
  patienceMs: 120_000,
  open: async () => {
    const facts = await probed
    const root = await mkdtemp(join(tmpdir(), 'ferry-'))
    const definitions = join(root, 'vms')
    const disk = join(root, 'guest.img')
    await mkdir(definitions)
    await writeFile(disk, bootSector(quietGuest))
    const disks = [{ path: disk, format: 'raw', interface: 'ide' }]
    const definition = { memoryMiB: 32, accel: 'tcg', disks }
    await writeFile(join(definitions, 'guest.json'), JSON.stringify(definition))
    return {
      open: (host) =>
        qemuDriver({ binary, guests: join(root, host), definitions, facts, clock: systemClock }),
      copies: async () =>
        (await qemusUnder(root)).map(({ folder, status }) => ({
          host: basename(dirname(folder)),
          isRunning: status === 'running',
          memory: () => readMemory(folder, quietGuest),
        })),
      close: async () => {
        for (const { pid } of await qemusUnder(root)) process.kill(pid, 'SIGKILL')
        await rm(root, { recursive: true })
      },
    }
  },
})

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { folderOf } from '@ferry/host-agent/folders'
import { qemuDriver } from '@ferry/host-agent/drivers/qemu/driver'
import { probeQemu } from '@ferry/host-agent/drivers/qemu/probe'
import { driverContract } from '../contract/driver.ts'
import type { DriverHost } from '../contract/driver.ts'
import { bootSector, smallGuest } from '../guest/boot-sector.ts'
import { qemusUnder, readMemory } from './outside.ts'

driverContract('qemu', async () => {
  const root = await mkdtemp(join(tmpdir(), 'ferry-'))
  const definitions = join(root, 'vms')
  await mkdir(definitions)
  const facts = await probeQemu({
    binary: 'qemu-system-x86_64',
    accelerators: ['tcg'],
    memoryBytes: 2 * 1024 ** 3,
    clock: systemClock,
  })
  const host = (name: string): DriverHost => {
    const guests = join(root, name)
    const open = () =>
      qemuDriver({
        binary: 'qemu-system-x86_64',
        guests,
        definitions,
        facts,
        clock: systemClock,
      })
    let driver = open()
    return {
      driver: () => driver,
      crash: async () => {
        await driver.close()
        driver = open()
      },
      memory: (vm) => readMemory(folderOf(guests, vm), smallGuest),
    }
  }
  const hosts = [host('source'), host('target')] as const
  return {
    source: hosts[0],
    target: hosts[1],
    define: async (vm) => {
      const disk = join(root, `${vm}.img`)
      await writeFile(disk, bootSector(smallGuest))
      const disks = [{ path: disk, format: 'raw', interface: 'ide' }]
      const definition = { memoryMiB: 32, accel: 'tcg', disks }
      await writeFile(join(definitions, `${vm}.json`), JSON.stringify(definition))
    },
    close: async () => {
      for (const each of hosts) await each.driver().close()
      for (const { pid } of await qemusUnder(root)) process.kill(pid, 'SIGKILL')
      await rm(root, { recursive: true })
    },
  }
})

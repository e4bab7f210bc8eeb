import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { libvirtDriver } from '@ferry/host-agent/drivers/libvirt/driver'
import { probeLibvirt } from '@ferry/host-agent/drivers/libvirt/probe'
import { driverContract } from '../contract/driver.ts'
import type { DriverHost } from '../contract/driver.ts'
import { smallGuest } from '../guest/boot-sector.ts'
import { describeGuest, letGoAll, readMemoryOf } from '../lab/libvirt-guest.ts'
import { openLibvirtHosts } from '../lab/libvirt-hosts.ts'

driverContract('libvirt', async () => {
  const root = await mkdtemp(join(tmpdir(), 'ferry-'))
  const definitions = join(root, 'vms')
  await mkdir(definitions)
  const lab = await openLibvirtHosts(root, ['source', 'target'])
  const host = async (name: string): Promise<DriverHost> => {
    const socket = lab.socket(name)
    const settings = {
      socket,
      guests: join(root, name, 'guests'),
      images: join(root, name, 'images'),
      definitions,
      facts: await probeLibvirt({ socket, memoryBytes: 2 * 1024 ** 3, clock: systemClock }),
      clock: systemClock,
    }
    let driver = libvirtDriver(settings)
    return {
      driver: () => driver,
      crash: async () => {
        await driver.close()
        driver = libvirtDriver(settings)
      },
      memory: (vm) => readMemoryOf(lab, name, root, vm, smallGuest),
    }
  }
  const [source, target] = [await host('source'), await host('target')]
  return {
    source,
    target,
    define: async (vm) => {
      const xml = await describeGuest(root, vm, { program: smallGuest, memoryMiB: 32 })
      await writeFile(join(definitions, `${vm}.xml`), xml)
    },
    close: async () => {
      for (const each of [source, target]) await each.driver().close()
      await lab.close()
      for (const name of ['source', 'target']) await letGoAll(join(root, name, 'guests'))
      await rm(root, { recursive: true })
    },
  }
})

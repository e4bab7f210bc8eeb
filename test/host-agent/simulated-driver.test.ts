import { systemClock } from '@ferry/events/clock'
import { simulatedDriver } from '@ferry/host-agent/drivers/simulated/driver'
import type { SimulatedHost } from '@ferry/host-agent/drivers/simulated/driver'
import { PAGE_BYTES, catchUp } from '@ferry/host-agent/drivers/simulated/guest'
import { driverContract } from '../contract/driver.ts'
import type { DriverHost } from '../contract/driver.ts'
import { firstBytesOf, sweepFault } from '../guest/memory.ts'

driverContract('simulated', async () => {
  const described = new Set<string>()
  return {
    source: host(described),
    target: host(described),
    define: async (vm) => void described.add(vm),
    close: async () => {},
  }
})

function host(described: ReadonlySet<string>): DriverHost {
  const world: SimulatedHost = {
    guests: new Map(),
    memoryBytes: 512 * 1024 ** 2,
    definitionOf: async (vm) =>
      described.has(vm) ? { memoryMiB: 4, pagesPerSecond: 5000 } : undefined,
  }
  let driver = simulatedDriver(world, systemClock)
  return {
    driver: () => driver,
    crash: async () => {
      await driver.close()
      driver = simulatedDriver(world, systemClock)
    },
    memory: async (vm) => {
      const guest = world.guests.get(vm)
      if (guest === undefined) throw new Error(`${vm} is not here`)
      catchUp(guest, systemClock)
      return {
        fault: sweepFault(firstBytesOf(guest.memory, PAGE_BYTES)),
        sweeps: guest.written,
      }
    },
  }
}

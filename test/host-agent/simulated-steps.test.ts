import { systemClock } from '@ferry/events/clock'
import { simulatedDriver } from '@ferry/host-agent/drivers/simulated/driver'
import type { SimulatedHost } from '@ferry/host-agent/drivers/simulated/driver'
import { PAGE_BYTES, catchUp } from '@ferry/host-agent/drivers/simulated/guest'
import { everyStep } from '../contract/steps.ts'
import { firstBytesOf, sweepFault } from '../guest/memory.ts'

everyStep('simulated', {
  atOnce: 8,
  patienceMs: 60_000,
  open: async () => {
    const worlds = new Map(['source', 'target'].map((host) => [host, emptyHost()]))
    return {
      open: (host) => simulatedDriver(worlds.get(host) ?? emptyHost(), systemClock),
      copies: async () =>
        [...worlds].flatMap(([host, { guests }]) =>
          [...guests.values()].map((guest) => ({
            host,
            isRunning: guest.state === 'running',
            memory: async () => {
              catchUp(guest, systemClock)
              const fault = sweepFault(firstBytesOf(guest.memory, PAGE_BYTES))
              return { fault, sweeps: guest.written }
            },
          })),
        ),
      close: async () => {},
    }
  },
})

const emptyHost = (): SimulatedHost => ({
  guests: new Map(),
  memoryBytes: 1024 ** 3,
  definitionOf: async () => calmVm,
})

/** So calm that its copy is done also on a machine that has hardly any time for it. */
const calmVm = { memoryMiB: 4, pagesPerSecond: 200 }

import { basename, dirname } from 'node:path'
import { PAGE_BYTES, workingGuest } from '../guest/boot-sector.ts'
import { openLab } from '../real/lab.ts'
import type { Stage } from './stage.ts'

const MEMORY_MIB = 512

/** Two agents and a QEMU guest, each a process of its own; looked at through QEMU's second monitor. */
export async function realStage(port: number): Promise<Stage> {
  const lab = await openLab({ hosts: ['rack1', 'rack2'], driver: 'qemu', port })
  try {
    await lab.defineGuest('web1', { program: workingGuest, memoryMiB: MEMORY_MIB })
    await lab.start('web1', 'rack1')
  } catch (error) {
    await lab.close()
    throw error
  }
  const swept = workingGuest.toByte - workingGuest.fromByte
  return {
    lab,
    description: `QEMU with ${MEMORY_MIB} MiB, which writes to ${swept / 2 ** 20} MiB of them without rest`,
    look: async () => {
      const copies = await lab.qemus()
      if (copies.length !== 1) throw new Error(`There are ${copies.length} copies of web1.`)
      const { folder } = await lab.onlyRunning()
      const { fault, sweeps } = await lab.memory('web1', workingGuest)
      // <state directory>/guests/<vm>
      const host = basename(dirname(dirname(folder)))
      return { host, fault, pages: swept / PAGE_BYTES, count: sweeps, unit: 'sweeps' }
    },
    close: lab.close,
  }
}

import { access, constants } from 'node:fs/promises'
import { cpus, totalmem } from 'node:os'
import type { Hypervisor } from '../../driver.ts'
import type { Xl } from './xl.ts'

/** What this host's Xen can do, asked of it. */
export type XenFacts = {
  readonly hypervisor: Hypervisor
  /** The helper is there that lets a suspended guest run on. */
  readonly canResume: boolean
}

export class XenMissing extends Error {
  override readonly name = 'XenMissing'

  constructor(options?: ErrorOptions) {
    super('Xen does not answer; on Debian: apt-get install xen-system-amd64, and boot it', options)
  }
}

const MEBIBYTE = 1024 ** 2

export async function probeXen(options: {
  readonly xl: Xl
  readonly resumer: string
  readonly memoryBytes?: number
}): Promise<XenFacts> {
  const info = await options.xl.info().catch((cause: unknown) => {
    throw new XenMissing({ cause })
  })
  const can = new Set((info.get('virt_caps') ?? '').split(' '))
  const machines = [...(can.has('pv') ? ['pv'] : []), ...(can.has('hvm') ? ['hvm', 'pvh'] : [])]
  const canResume = await access(options.resumer, constants.X_OK).then(
    () => true,
    () => false,
  )
  return {
    canResume,
    hypervisor: {
      hypervisor: 'xen',
      hypervisorVersion: info.get('xen_version') ?? 'unknown',
      cpu: cpus()[0]?.model ?? 'unknown',
      machines,
      cpuModels: ['host'],
      accelerators: ['xen'],
      // What is not dom0's own.
      memoryBytes:
        options.memoryBytes ?? Number(info.get('total_memory') ?? 0) * MEBIBYTE - totalmem(),
    },
  }
}

import { cpus, totalmem } from 'node:os'
import type { Clock } from '@ferry/events/clock'
import type { Hypervisor } from '../../driver.ts'
import { valuesAt } from '../libvirt/domain-xml.ts'
import { LibvirtMissing, dotted, unique } from '../libvirt/probe.ts'
import { procedures } from '../libvirt/procedures.ts'
import { connectLibvirt } from '../libvirt/rpc.ts'
import { Feature } from '../libvirt/words.ts'
import { XenMissing } from '../xen/probe.ts'
import type { Xl } from '../xen/xl.ts'
import { streamVersionOf } from './cookie.ts'

/** What this host's libvirtd and its Xen can do, asked of both. */
export type LibxlFacts = {
  readonly hypervisor: Hypervisor
  readonly canMigrateByPhases: boolean
  /** Up to which version it writes and reads Xen's stream. */
  readonly streamVersion: number
}

const MEBIBYTE = 1024 ** 2

export async function probeLibxl(options: {
  readonly socket: string
  readonly xl: Xl
  readonly clock: Clock
  readonly memoryBytes?: number
}): Promise<LibxlFacts> {
  const { socket, xl, clock } = options
  // libvirtd does not say which guests are suspended.
  const info = await xl.info().catch((cause: unknown) => {
    throw new XenMissing({ cause })
  })
  const libvirt = await connectLibvirt(socket, clock, 'xen:///system').catch((cause: unknown) => {
    throw new LibvirtMissing(socket, { cause })
  })
  try {
    const { version } = await libvirt.call(procedures.libraryVersion, undefined)
    const { version: xenVersion } = await libvirt.call(procedures.version, undefined)
    const { isSupported } = await libvirt.call(procedures.supports, {
      feature: Feature.migrationParameters,
    })
    const { xml } = await libvirt.call(procedures.capabilities, undefined)
    return {
      canMigrateByPhases: isSupported === 1,
      streamVersion: streamVersionOf(xenVersion),
      hypervisor: {
        hypervisor: 'libxl',
        hypervisorVersion: `libvirt ${dotted(version)} (Xen ${dotted(xenVersion)})`,
        cpu: cpus()[0]?.model ?? 'unknown',
        machines: unique(valuesAt(xml, ['guest', 'arch', 'machine'])),
        cpuModels: ['host'],
        accelerators: ['xen'],
        // What is not dom0's own.
        memoryBytes:
          options.memoryBytes ?? Number(info.get('total_memory') ?? 0) * MEBIBYTE - totalmem(),
      },
    }
  } finally {
    libvirt.close()
  }
}

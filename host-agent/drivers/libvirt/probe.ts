import { cpus, totalmem } from 'node:os'
import type { Clock } from '@ferry/events/clock'
import type { Hypervisor } from '../../driver.ts'
import { valuesAt } from './domain-xml.ts'
import { procedures } from './procedures.ts'
import { connectLibvirt } from './rpc.ts'
import { Feature } from './words.ts'

/** What this host's libvirtd and its QEMU can do, asked of libvirtd. */
export type LibvirtFacts = { readonly hypervisor: Hypervisor; readonly canMigrateByPhases: boolean }

export class LibvirtMissing extends Error {
  override readonly name = 'LibvirtMissing'

  constructor(socket: string, options?: ErrorOptions) {
    super(
      `libvirtd does not answer at ${socket}; on Debian: apt-get install libvirt-daemon-system`,
      options,
    )
  }
}

export async function probeLibvirt(options: {
  readonly socket: string
  readonly memoryBytes?: number
  readonly clock: Clock
}): Promise<LibvirtFacts> {
  const { socket, clock, memoryBytes = totalmem() } = options
  const libvirt = await connectLibvirt(socket, clock).catch((cause: unknown) => {
    throw new LibvirtMissing(socket, { cause })
  })
  try {
    const { version } = await libvirt.call(procedures.libraryVersion, undefined)
    const { version: qemuVersion } = await libvirt.call(procedures.version, undefined)
    const { isSupported } = await libvirt.call(procedures.supports, {
      feature: Feature.migrationParameters,
    })
    const { xml } = await libvirt.call(procedures.capabilities, undefined)
    const types = new Set(valuesAt(xml, ['guest', 'arch', 'domain'], 'type'))
    const models: string[] = []
    for (const type of types) {
      const { xml: able } = await libvirt.call(procedures.domainCapabilities, {
        emulator: undefined,
        architecture: undefined,
        machine: undefined,
        type,
        flags: 0,
      })
      models.push(...valuesAt(able, ['cpu', 'mode', 'model']))
    }
    const accelerators = ['kvm', 'qemu'].filter((type) => types.has(type))
    return {
      canMigrateByPhases: isSupported === 1,
      hypervisor: {
        hypervisor: 'libvirt',
        hypervisorVersion: `${dotted(version)} (QEMU ${dotted(qemuVersion)})`,
        cpu: cpus()[0]?.model ?? 'unknown',
        machines: unique(valuesAt(xml, ['guest', 'arch', 'machine'])),
        // Those that are no model are judged by libvirt itself, when the copy is prepared.
        cpuModels: unique([...models, 'host-passthrough', 'host-model', 'maximum']),
        accelerators: accelerators.map((type) => (type === 'qemu' ? 'tcg' : type)),
        memoryBytes,
      },
    }
  } finally {
    libvirt.close()
  }
}

export const unique = (names: readonly string[]) => [...new Set(names)].toSorted()

/** libvirt's versions are one number: 9000000 is 9.0.0. */
export const dotted = (version: bigint): string => {
  const number = Number(version)
  return [Math.floor(number / 1e6), Math.floor(number / 1000) % 1000, number % 1000].join('.')
}

import { execFile, spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { cpus, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Type } from 'typebox'
import { parse } from '@ferry/schemas/parse'
import type { Clock } from '@ferry/events/clock'
import type { Hypervisor } from '../../driver.ts'
import { connectQmp } from './qmp.ts'

/** What this host's QEMU can do, asked of QEMU itself and not read from its version. */
export type QemuFacts = {
  readonly hypervisor: Hypervisor
  /** The canonical name of a machine type, or the name itself where QEMU knows no such alias. */
  readonly machineOf: (name: string) => string
  readonly capabilities: readonly string[]
}

export class QemuMissing extends Error {
  override readonly name = 'QemuMissing'

  constructor(binary: string, options?: ErrorOptions) {
    super(`${binary} cannot be run; on Debian: apt-get install qemu-system-x86 qemu-utils`, options)
  }
}

const Version = Type.Object({
  qemu: Type.Object({ major: Type.Number(), minor: Type.Number(), micro: Type.Number() }),
})
const Machines = Type.Array(
  Type.Object({ name: Type.String(), alias: Type.Optional(Type.String()) }),
)
const Names = Type.Array(Type.Object({ name: Type.String() }))
/** What Ferry cannot do without: to hold back at the gate, and a loaded copy that takes no lock before it is started. */
export const neededCapabilities = {
  source: ['events', 'pause-before-switchover'],
  target: ['events', 'late-block-activate'],
} as const

const Capabilities = Type.Array(Type.Object({ capability: Type.String() }))

export async function probeQemu(options: {
  readonly binary: string
  readonly accelerators: readonly ('kvm' | 'tcg')[] | 'auto'
  readonly memoryBytes?: number
  readonly clock: Clock
}): Promise<QemuFacts> {
  const { binary, clock, memoryBytes = totalmem() } = options
  const folder = await mkdtemp(join(tmpdir(), 'ferry-probe-'))
  try {
    const socket = join(folder, 'qmp')
    const monitor = [
      '-chardev',
      `socket,id=m,path=${socket},server=on,wait=off`,
      '-mon',
      'chardev=m,mode=control',
    ]
    const nothing = [
      '-machine',
      'none',
      '-nodefaults',
      '-no-user-config',
      '-display',
      'none',
      '-daemonize',
    ]
    await promisify(execFile)(binary, [...nothing, ...monitor]).catch((cause: unknown) => {
      throw new QemuMissing(binary, { cause })
    })
    const qmp = await connectQmp(socket, clock)
    try {
      const ask = (command: string) => qmp.execute(command)
      const { qemu } = parse(Version, await ask('query-version'), 'query-version')
      const machines = parse(Machines, await ask('query-machines'), 'query-machines')
      const models = parse(Names, await ask('query-cpu-definitions'), 'query-cpu-definitions')
      const able = parse(Capabilities, await ask('query-migrate-capabilities'), 'its capabilities')
      await qmp.execute('quit')
      await qmp.closed
      const accelerators =
        options.accelerators === 'auto'
          ? (await isKvmUsable(binary, folder))
            ? ['kvm', 'tcg']
            : ['tcg']
          : [...options.accelerators]
      return {
        hypervisor: {
          hypervisor: 'qemu',
          hypervisorVersion: `${qemu.major}.${qemu.minor}.${qemu.micro}`,
          cpu: cpus()[0]?.model ?? 'unknown',
          machines: machines.map(({ name }) => name).toSorted(),
          cpuModels: models.map(({ name }) => name).toSorted(),
          accelerators,
          memoryBytes,
        },
        machineOf: (name) => machines.find(({ alias }) => alias === name)?.name ?? name,
        capabilities: able.map(({ capability }) => capability),
      }
    } finally {
      qmp.close()
    }
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** Where KVM is real, the probe is over in a tenth of this; where it is emulated, it would take minutes. */
const KVM_PROBE_MS = 1500

/**
 * /dev/kvm may open and make a machine, and run it at the speed of an interpreter. So a guest that counts to fifty
 * million and leaves has to do it in time.
 *
 * The boot sector, in real mode: `mov ecx, 50000000; 1: dec ecx; jnz 1b; mov al, 0x2a; out 0xf4, al; hlt`.
 * Port 0xf4 is QEMU's isa-debug-exit: QEMU ends with (0x2a << 1) | 1.
 */
async function isKvmUsable(binary: string, folder: string): Promise<boolean> {
  const image = join(folder, 'count.img')
  const code = [
    0x66, 0xb9, 0x80, 0xf0, 0xfa, 0x02, 0x66, 0x49, 0x75, 0xfc, 0xb0, 0x2a, 0xe6, 0xf4, 0xf4,
  ]
  const sector = Buffer.alloc(512)
  sector.set(code)
  sector.set([0x55, 0xaa], 510)
  await writeFile(image, sector)
  const child = spawn(
    binary,
    [
      ['-nodefaults', '-no-user-config', '-display', 'none', '-accel', 'kvm', '-m', '16M'],
      ['-device', 'isa-debug-exit', '-drive', `file=${image},format=raw,if=ide`],
    ].flat(),
    { stdio: 'ignore', timeout: KVM_PROBE_MS, killSignal: 'SIGKILL' },
  )
  return new Promise((resolve) => {
    child.once('error', () => resolve(false))
    child.once('exit', (code) => resolve(code === ((0x2a << 1) | 1)))
  })
}

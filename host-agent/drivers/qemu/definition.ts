import { Type } from 'typebox'
import type { Static } from 'typebox'
import type { GuestNeeds } from '@ferry/schemas/guest'

/** A guest as its operator describes it in `vms/<name>.json`, and as it travels to the target. */

const strict = { additionalProperties: false }

const Path = Type.String({ pattern: '^/', maxLength: 4096 })

export const Disk = Type.Object(
  {
    /** On storage that both hosts see under the same path. */
    path: Path,
    format: Type.Union([Type.Literal('raw'), Type.Literal('qcow2')]),
    interface: Type.Optional(
      Type.Union([Type.Literal('virtio'), Type.Literal('ide'), Type.Literal('floppy')]),
    ),
    readOnly: Type.Optional(Type.Boolean()),
  },
  strict,
)
export type Disk = Static<typeof Disk>

const described = {
  memoryMiB: Type.Integer({ minimum: 1, maximum: 64 * 1024 * 1024 }),
  vcpus: Type.Optional(Type.Integer({ minimum: 1, maximum: 1024 })),
  cpu: Type.Optional(Type.String({ minLength: 1, maxLength: 256 })),
  kernel: Type.Optional(Path),
  initrd: Type.Optional(Path),
  append: Type.Optional(Type.String({ maxLength: 4096 })),
  disks: Type.Optional(Type.Array(Disk, { maxItems: 64 })),
  /** Handed to QEMU as they are, on both hosts. */
  extraArguments: Type.Optional(Type.Array(Type.String({ maxLength: 4096 }), { maxItems: 256 })),
}

export const VmFile = Type.Object(
  {
    ...described,
    /** `auto`: KVM where it is really usable, and not only there. */
    accel: Type.Optional(
      Type.Union([Type.Literal('auto'), Type.Literal('kvm'), Type.Literal('tcg')]),
    ),
    machine: Type.Optional(Type.String({ minLength: 1, maxLength: 128 })),
  },
  strict,
)
export type VmFile = Static<typeof VmFile>

/** A definition with nothing left to choose: the same machine and accelerator must come up on the target. */
export const Definition = Type.Object(
  {
    ...described,
    accelerator: Type.Union([Type.Literal('kvm'), Type.Literal('tcg')]),
    machine: Type.String({ minLength: 1, maxLength: 128 }),
  },
  strict,
)
export type Definition = Static<typeof Definition>

/** Every QEMU knows it, and it can be moved between any two CPUs. */
const PLAIN_CPU = 'qemu64'

export function resolve(
  file: VmFile,
  found: { accelerators: readonly string[]; machineOf: (name: string) => string },
): Definition {
  const { accel = 'auto', machine = 'pc', ...rest } = file
  const best = found.accelerators.includes('kvm') ? 'kvm' : 'tcg'
  return {
    ...rest,
    accelerator: accel === 'auto' ? best : accel,
    // `pc` means another machine in each release; the canonical name means the same on both hosts.
    machine: found.machineOf(machine),
  }
}

export const needsOf = (definition: Definition): GuestNeeds => ({
  memoryBytes: definition.memoryMiB * 1024 ** 2,
  vcpus: definition.vcpus ?? 1,
  hypervisor: 'qemu',
  machine: definition.machine,
  // Only the model: what follows a comma are its features.
  cpu: (definition.cpu ?? PLAIN_CPU).split(',')[0] ?? PLAIN_CPU,
  accelerator: definition.accelerator,
})

/** QEMU wants a power of two. */
const SERIAL_BYTES = 64 * 1024

export type Sockets = { readonly agent: string; readonly mover: string; readonly operator: string }

/** QEMU's arguments for a definition: the same on both hosts, but for the files of the copy and `-incoming`. */
export function qemuArguments(
  vm: string,
  definition: Definition,
  copy: { readonly sockets: Sockets; readonly pidFile: string },
  isIncoming: boolean,
): string[] {
  const {
    memoryMiB,
    vcpus = 1,
    cpu = PLAIN_CPU,
    kernel,
    initrd,
    append,
    disks = [],
    extraArguments = [],
  } = definition
  return [
    ['-name', `guest=${quoted(vm)}`],
    ['-nodefaults', '-no-user-config', '-display', 'none'],
    ['-machine', definition.machine, '-accel', definition.accelerator, '-cpu', cpu],
    ['-m', `${memoryMiB}M`, '-smp', String(vcpus)],
    monitor('agent', copy.sockets.agent),
    // One for each who has something to say, people and their tools among them: a monitor takes one client at a time.
    monitor('mover', copy.sockets.mover),
    monitor('operator', copy.sockets.operator),
    // Its last words, for the operator's monitor (`ringbuf-read`): no guest can fill its host's disk.
    ['-chardev', `ringbuf,id=serial0,size=${SERIAL_BYTES}`, '-serial', 'chardev:serial0'],
    kernel === undefined ? [] : ['-kernel', kernel],
    initrd === undefined ? [] : ['-initrd', initrd],
    append === undefined ? [] : ['-append', append],
    ...disks.map(drive),
    extraArguments,
    ['-S', '-daemonize', '-pidfile', copy.pidFile],
    isIncoming ? ['-incoming', 'defer'] : [],
  ].flat()
}

const monitor = (id: string, path: string) => [
  '-chardev',
  `socket,id=${id},path=${quoted(path)},server=on,wait=off`,
  '-mon',
  `chardev=${id},mode=control`,
]

const drive = ({ path, format, interface: bus = 'virtio', readOnly = false }: Disk) => [
  '-drive',
  `file=${quoted(path)},format=${format},if=${bus},readonly=${readOnly ? 'on' : 'off'}`,
]

/** In QEMU's option lists a comma ends a value, and two commas are one. */
const quoted = (value: string) => value.replaceAll(',', ',,')

import { readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { letGo } from '@ferry/host-agent/drivers/libvirt/holder'
import { COUNTER_AT, PAGE_BYTES, bootSector } from '../guest/boot-sector.ts'
import type { GuestProgram } from '../guest/boot-sector.ts'
import { firstBytesOf, sweepFault } from '../guest/memory.ts'
import type { Memory } from '../real/outside.ts'
import type { LibvirtHosts } from './libvirt-hosts.ts'

/** The boot sector as a guest of libvirt's: its disk is read only, so libvirt takes any storage for shared. */
export async function describeGuest(
  folder: string,
  vm: string,
  { program, memoryMiB, hasMonitor = false }: BootedGuest,
): Promise<string> {
  const disk = join(folder, `${vm}.img`)
  await writeFile(disk, bootSector(program))
  const space = hasMonitor ? ` xmlns:qemu='${QEMU_NAMESPACE}'` : ''
  return `<domain type='qemu'${space}>
  <name>${vm}</name>
  <memory unit='MiB'>${memoryMiB}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='fd'/></os>
  <devices>
    <disk type='file' device='floppy'>
      <driver name='qemu' type='raw'/>
      <source file='${disk}'/>
      <target dev='fda' bus='fdc'/>
      <readonly/>
    </disk>
    <serial type='file'><source path='/var/log/libvirt/${vm}-serial.log'/></serial>
    <memballoon model='none'/>
  </devices>
${hasMonitor ? monitor : ''}</domain>
`
}

type BootedGuest = {
  readonly program: GuestProgram
  readonly memoryMiB: number
  /** A second monitor, at `log/operator.qmp` in its host's folder, to be looked through behind libvirt's back. */
  readonly hasMonitor?: boolean
}

const QEMU_NAMESPACE = 'http://libvirt.org/schemas/domain/qemu/1.0'
const monitor = `  <qemu:commandline>
    <qemu:arg value='-qmp'/>
    <qemu:arg value='unix:/var/log/libvirt/operator.qmp,server=on,wait=off'/>
  </qemu:commandline>
`

/** QEMU's own word, asked behind libvirt's back as an operator may: stops the guest, reads its memory, lets it go on. */
export async function readMemoryOf(
  { virsh }: LibvirtHosts,
  host: string,
  folder: string,
  vm: string,
  { fromByte, toByte }: GuestProgram,
): Promise<Memory> {
  const ask = async (execute: string, words: object = {}) => {
    const command = JSON.stringify({ execute, arguments: words })
    return JSON.parse(await virsh(host, 'qemu-monitor-command', vm, command)) as {
      return: { status?: string }
    }
  }
  const save = async (val: number, size: number): Promise<Buffer> => {
    const filename = join(folder, `dump-${host}-${vm}`)
    await ask('pmemsave', { val, size, filename })
    const dump = await readFile(filename)
    await rm(filename)
    return dump
  }
  const { status } = (await ask('query-status')).return
  if (status === 'running') await ask('stop')
  try {
    const dump = await save(fromByte, toByte - fromByte)
    const counter = await save(COUNTER_AT, 4)
    return { fault: sweepFault(firstBytesOf(dump, PAGE_BYTES)), sweeps: counter.readUInt32LE(0) }
  } finally {
    if (status === 'running') await ask('cont')
  }
}

/** Ends what keeps the connections of guests that a test has left as they were sent. */
export async function letGoAll(guests: string): Promise<void> {
  const names = await readdir(guests).catch(() => [])
  await Promise.all(names.map((name) => letGo(join(guests, name))))
}

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BRIDGE, SHARED_DISK } from './xen-hosts.ts'
import type { XenHosts, XenTool } from './xen-hosts.ts'

/** Debian's kernel with a disk that both hosts see and a card on each host's own bridge; or `xen-guest.c`, a tenth to copy. */
export type XenGuest = keyof typeof guests

type Described = {
  readonly type: 'pv' | 'pvh' | 'hvm'
  readonly memoryMiB: number
  readonly hasCard: boolean
  /** What it boots and what it has, for `xl create`; and for libvirt. */
  readonly words: readonly string[]
  readonly system: string
  readonly devices: string
}

const KERNEL_WORDS = 'console=hvc0 quiet mitigations=off'

const xmlOfDisk = (device: string, bus: string) =>
  `<disk type='block' device='disk'>
      <driver name='phy'/><source dev='${SHARED_DISK}'/><target dev='${device}' bus='${bus}'/>
    </disk>`

const linux = {
  hasCard: true,
  words: [
    'kernel = "/guest/vmlinux"',
    'ramdisk = "/guest/initrd"',
    `extra = "${KERNEL_WORDS}"`,
    `disk = ["phy:${SHARED_DISK},xvda,w"]`,
    `vif = ["bridge=${BRIDGE}"]`,
  ],
  system: `<kernel>/guest/vmlinux</kernel><initrd>/guest/initrd</initrd><cmdline>${KERNEL_WORDS}</cmdline>`,
  devices: `${xmlOfDisk('xvda', 'xen')}
    <interface type='bridge'><source bridge='${BRIDGE}'/></interface>`,
}

const guests = {
  linux: { type: 'pvh', memoryMiB: 112, ...linux },
  'linux pv': { type: 'pv', memoryMiB: 96, ...linux },
  small: {
    type: 'pvh',
    memoryMiB: 8,
    hasCard: false,
    words: ['kernel = "/guest/small"'],
    system: '<kernel>/guest/small</kernel>',
    devices: '',
  },
  'small hvm': {
    type: 'hvm',
    memoryMiB: 24,
    hasCard: false,
    words: [`disk = ["phy:${SHARED_DISK},hda,w"]`, 'vnc = 0', 'vga = "none"', 'usb = 0'],
    system: `<boot dev='hd'/>`,
    devices: xmlOfDisk('hda', 'ide'),
  },
} as const satisfies Readonly<Record<string, Described>>

export const hasCard = (guest: XenGuest): boolean => guests[guest].hasCard

/** A guest as `xl create` wants it described; what it boots lies in each dom0. */
export function describeXenGuest(vm: string, guest: XenGuest): string {
  const { type, memoryMiB, words } = guests[guest]
  return `name = "${vm}"
type = "${type}"
memory = ${memoryMiB}
vcpus = 1
on_crash = "preserve"
${words.join('\n')}
`
}

const machines = {
  pv: `<type arch='x86_64' machine='xenpv'>linux</type>`,
  pvh: `<type arch='x86_64' machine='xenpvh'>xenpvh</type>`,
  hvm: `<type arch='x86_64' machine='xenfv'>hvm</type>`,
}

/** The same as libvirt wants it described. */
function describeLibxlGuest(vm: string, guest: XenGuest): string {
  const { type, memoryMiB, system, devices } = guests[guest]
  return `<domain type='xen'>
  <name>${vm}</name>
  <memory unit='MiB'>${memoryMiB}</memory>
  <vcpu>1</vcpu>
  <os>${machines[type]}${system}</os>
  <on_crash>preserve</on_crash>
  <devices>
    <console type='pty'><target type='xen' port='0'/></console>
    ${devices}
  </devices>
</domain>
`
}

/** Among the definitions that a driver starts guests from. */
export const defineGuest = (folder: string, tool: XenTool, vm: string, guest: XenGuest) =>
  tool === 'xl'
    ? writeFile(join(folder, `${vm}.cfg`), describeXenGuest(vm, guest))
    : writeFile(join(folder, `${vm}.xml`), describeLibxlGuest(vm, guest))

/** What a guest has said on its console, as a host's xenconsoled has kept it. */
export type Count = { readonly count: number; readonly fault?: string }

/** All that it has said on this host, in the order of its counts. */
export async function countsOf(hosts: XenHosts, host: string, vm: string): Promise<Count[]> {
  const logs = ['', '--incoming', '--migratedaway'].map((end) => `guest-${vm}${end}.log`).join(' ')
  const counts = countsIn(await said(hosts, host, logs))
  return counts.toSorted((one, another) => one.count - another.count)
}

/** What was said last on this host, by one guest or by any. @returns undefined where nothing was. */
export const lastCount = async (
  hosts: XenHosts,
  host: string,
  vm = '*',
): Promise<Count | undefined> =>
  countsIn(await said(hosts, host, `guest-${vm}.log guest-${vm}--incoming.log`)).at(-1)

/** Each line begins with the moment at which it was said. */
const said = async ({ shell }: XenHosts, host: string, logs: string): Promise<string> =>
  (await shell(host, `cd /var/log/xen/console; cat ${logs} 2> /dev/null | sort -u`)).text

const countsIn = (text: string): Count[] =>
  [...text.matchAll(/count (\d+) memory (\w+) disk (\w+)/g)].map(([, count, memory, disk]) => ({
    count: Number(count),
    ...faultIn({ memory, disk }),
  }))

function faultIn(said: { readonly [part: string]: string | undefined }) {
  const faults = Object.entries(said).filter(([, is]) => is === 'wrong')
  return faults.length === 0 ? {} : { fault: `wrong: ${faults.map(([part]) => part).join(', ')}` }
}

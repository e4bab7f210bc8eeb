import { BRIDGE, SHARED_DISK } from './xen-hosts.ts'
import type { XenHosts } from './xen-hosts.ts'

/** Debian's kernel, as PVH or PV; or `xen-guest.c`, of which there is a tenth to copy. */
export type XenGuest = keyof typeof guests

const guests = {
  linux: { type: 'pvh', machine: 'xenpvh', os: 'xenpvh', memoryMiB: 112, kernel: 'vmlinux' },
  'linux pv': { type: 'pv', machine: 'xenpv', os: 'linux', memoryMiB: 96, kernel: 'vmlinux' },
  small: { type: 'pvh', machine: 'xenpvh', os: 'xenpvh', memoryMiB: 8, kernel: 'small' },
} as const

/** A disk that both hosts see, and a card on each host's own bridge: Linux has drivers for them. */
export const hasDevices = (guest: XenGuest): boolean => guest !== 'small'

const WORDS = 'console=hvc0 quiet mitigations=off'

/** A guest as `xl create` wants it described; what it boots lies in each dom0. */
export function describeXenGuest(vm: string, guest: XenGuest): string {
  const { type, memoryMiB, kernel } = guests[guest]
  const system = `ramdisk = "/guest/initrd"\nextra = "${WORDS}"\n`
  const devices = `disk = ["phy:${SHARED_DISK},xvda,w"]\nvif = ["bridge=${BRIDGE}"]\n`
  return `name = "${vm}"
type = "${type}"
memory = ${memoryMiB}
vcpus = 1
kernel = "/guest/${kernel}"
on_crash = "preserve"
${hasDevices(guest) ? system + devices : ''}`
}

/** The same as libvirt wants it described. */
export function describeLibxlGuest(vm: string, guest: XenGuest): string {
  const { machine, os, memoryMiB, kernel } = guests[guest]
  const system = `
    <initrd>/guest/initrd</initrd>
    <cmdline>${WORDS}</cmdline>`
  return `<domain type='xen'>
  <name>${vm}</name>
  <memory unit='MiB'>${memoryMiB}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='${machine}'>${os}</type>
    <kernel>/guest/${kernel}</kernel>${hasDevices(guest) ? system : ''}
  </os>
  <on_crash>preserve</on_crash>
  <devices>
    <console type='pty'><target type='xen' port='0'/></console>
${hasDevices(guest) ? xmlOfDevices : ''}  </devices>
</domain>
`
}

const xmlOfDevices = `    <disk type='block' device='disk'>
      <driver name='phy'/><source dev='${SHARED_DISK}'/><target dev='xvda' bus='xen'/>
    </disk>
    <interface type='bridge'><source bridge='${BRIDGE}'/></interface>
`

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

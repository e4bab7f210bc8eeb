import { BRIDGE, SHARED_DISK } from './xen-hosts.ts'
import type { XenHosts } from './xen-hosts.ts'

export type XenKind = 'pv' | 'pvh'

/** Of those that have them: a disk that both hosts see, and a card on each host's own bridge. */
type Devices = 'bare' | 'with devices'

/** A small guest as `xl create` wants it described; its kernel and program lie in each dom0. */
export const describeXenGuest = (
  vm: string,
  kind: XenKind,
  devices: Devices = 'bare',
): string => `name = "${vm}"
type = "${kind}"
memory = ${kind === 'pv' ? 96 : 112}
vcpus = 1
kernel = "/guest/vmlinux"
ramdisk = "/guest/initrd"
extra = "console=hvc0 quiet mitigations=off"
on_crash = "preserve"
${devices === 'bare' ? '' : `disk = ["phy:${SHARED_DISK},xvda,w"]\nvif = ["bridge=${BRIDGE}"]\n`}`

/** The same as libvirt wants it described. */
export const describeLibxlGuest = (
  vm: string,
  kind: XenKind,
  devices: Devices = 'bare',
): string => `<domain type='xen'>
  <name>${vm}</name>
  <memory unit='MiB'>${kind === 'pv' ? 96 : 112}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='xen${kind}'>${kind === 'pv' ? 'linux' : 'xenpvh'}</type>
    <kernel>/guest/vmlinux</kernel>
    <initrd>/guest/initrd</initrd>
    <cmdline>console=hvc0 quiet mitigations=off</cmdline>
  </os>
  <on_crash>preserve</on_crash>
  <devices>
    <console type='pty'><target type='xen' port='0'/></console>
${devices === 'bare' ? '' : xmlOfDevices}  </devices>
</domain>
`

const xmlOfDevices = `    <disk type='block' device='disk'>
      <driver name='phy'/><source dev='${SHARED_DISK}'/><target dev='xvda' bus='xen'/>
    </disk>
    <interface type='bridge'><source bridge='${BRIDGE}'/></interface>
`

/** What a guest has said on its console, as a host's xenconsoled has kept it. */
export type Count = { readonly count: number; readonly upS: number; readonly fault?: string }

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
  [...text.matchAll(/count (\d+) up ([\d.]+) memory (\w+) disk (\w+)/g)].map(
    ([, count, up, memory, disk]) => ({
      count: Number(count),
      upS: Number(up),
      ...faultIn({ memory, disk }),
    }),
  )

function faultIn(said: { readonly [part: string]: string | undefined }) {
  const faults = Object.entries(said).filter(([, is]) => is === 'wrong')
  return faults.length === 0 ? {} : { fault: `wrong: ${faults.map(([part]) => part).join(', ')}` }
}

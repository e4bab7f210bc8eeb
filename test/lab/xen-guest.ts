import type { XenHosts } from './xen-hosts.ts'

export type XenKind = 'pv' | 'pvh'

/** A small guest as `xl create` wants it described; its kernel and program lie in each dom0. */
export const describeXenGuest = (vm: string, kind: XenKind): string => `name = "${vm}"
type = "${kind}"
memory = ${kind === 'pv' ? 96 : 112}
vcpus = 1
kernel = "/guest/vmlinux"
ramdisk = "/guest/initrd"
extra = "console=hvc0 quiet mitigations=off"
on_crash = "preserve"
`

/** What a guest has said on its console, as a host's xenconsoled has kept it. */
export type Count = { readonly count: number; readonly upS: number; readonly fault?: string }

/** All that it has said on this host, in the order of its counts. */
export async function countsOf({ shell }: XenHosts, host: string, vm: string): Promise<Count[]> {
  const logs = ['', '--incoming', '--migratedaway'].map((end) => `guest-${vm}${end}.log`).join(' ')
  const { text } = await shell(host, `cd /var/log/xen/console; cat ${logs} 2> /dev/null | sort`)
  const counts: Count[] = []
  for (const [, count, up, memory] of text.matchAll(/count (\d+) up ([\d.]+) memory (\w+)/g)) {
    const fault = memory === 'right' ? {} : { fault: `its memory is ${memory}` }
    counts.push({ count: Number(count), upS: Number(up), ...fault })
  }
  return counts.toSorted((one, another) => one.count - another.count)
}

/** @returns undefined for one that has not said anything on this host. */
export const lastCount = async (
  hosts: XenHosts,
  host: string,
  vm: string,
): Promise<Count | undefined> => (await countsOf(hosts, host, vm)).at(-1)

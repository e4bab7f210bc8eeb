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

/** What a guest has said last on its console, as a host's xenconsoled has kept it. */
export type Count = { readonly count: number; readonly upS: number; readonly fault?: string }

/** @returns undefined for one that has not said anything on this host. */
export async function lastCount(
  { shell }: XenHosts,
  host: string,
  vm: string,
): Promise<Count | undefined> {
  const logs = ['', '--incoming', '--migratedaway'].map((end) => `guest-${vm}${end}.log`).join(' ')
  const line = `cd /var/log/xen/console; cat ${logs} 2> /dev/null | grep -a ' memory ' | sort | tail -n 1`
  const { text } = await shell(host, line)
  const [, count, up, memory] = /count (\d+) up ([\d.]+) memory (\w+)/.exec(text) ?? []
  if (count === undefined) return undefined
  return {
    count: Number(count),
    upS: Number(up),
    ...(memory === 'right' ? {} : { fault: `its memory is ${memory}` }),
  }
}

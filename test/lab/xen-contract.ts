import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { PerformOrder } from '@ferry/host-agent/driver'
import { driverContract } from '../contract/driver.ts'
import type { DriverHost, DriverHosts } from '../contract/driver.ts'
import { until } from '../until.ts'
import { putPrograms } from './programs.ts'
import { openFarDriver } from './xen-driver.ts'
import { describeLibxlGuest, describeXenGuest, lastCount } from './xen-guest.ts'
import type { XenGuest } from './xen-guest.ts'
import { LOOK_EVERY_MS, openXenHosts } from './xen-hosts.ts'
import type { XenHosts, XenTool } from './xen-hosts.ts'

const names = ['source', 'target'] as const
const PATIENCE_MS = 240_000
/** A PV guest leaves only where it may stand still for as long as that takes, at the least that a limit allows. */
const STILL_MS = 600_000
const SLOW_BYTES_PER_SECOND = 2 ** 18

/** Every promise of a driver, of the one that runs in a dom0; its death there is the real one. */
export const xenContract = (name: string, guest: XenGuest, tool: XenTool = 'xl'): void =>
  driverContract(name, async () => {
    const folder = await mkdtemp(join(tmpdir(), 'ferry-'))
    const where = { programs: join(folder, 'programs'), definitions: join(folder, 'vms'), tool }
    let hosts: XenHosts | undefined
    try {
      await mkdir(where.definitions)
      await putPrograms(['test/lab/xen-seat.ts'], where.programs)
      hosts = await openXenHosts(folder, names)
      if (tool === 'libxl') await Promise.all(names.map(hosts.startLibvirt))
      return await open(hosts, guest, where, folder)
    } catch (error) {
      await hosts?.close()
      await rm(folder, { recursive: true })
      throw error
    }
  })

async function open(
  hosts: XenHosts,
  guest: XenGuest,
  where: { readonly programs: string; readonly definitions: string; readonly tool: XenTool },
  folder: string,
): Promise<DriverHosts> {
  const host = async (name: string): Promise<DriverHost> => {
    const { driver, crash } = await openFarDriver(hosts, name, where)
    const memory = async () => {
      const seen = await lastCount(hosts, name)
      return { fault: seen?.fault, sweeps: seen?.count ?? -1 }
    }
    /** One that has not come up cannot be suspended either. */
    const start = async (vm: string) => {
      const begun = await driver.start(vm)
      if ('refusal' in begun) return begun
      const counts = async () => (await memory()).sweeps > 0
      await until(`${vm} to count`, counts, PATIENCE_MS, LOOK_EVERY_MS)
      return begun
    }
    const perform = (vm: string, order: PerformOrder) => {
      const policy = () => ({ ...order.dial.policy(), downtimeMs: STILL_MS })
      return driver.perform(vm, { ...order, dial: { ...order.dial, policy } })
    }
    return { driver: () => ({ ...driver, start, perform }), crash, memory }
  }
  const [source, target] = [await host('source'), await host('target')]
  const domains = async (name: string) =>
    (await hosts.run(name, 'sh', '-c', LIST)).trim().split('\n').filter(Boolean)
  return {
    source,
    target,
    lookEveryMs: LOOK_EVERY_MS,
    slow: { bytesPerSecond: SLOW_BYTES_PER_SECOND, patienceMs: PATIENCE_MS },
    define: async (vm) => {
      const [as, text] =
        where.tool === 'xl'
          ? ['cfg', describeXenGuest(vm, guest)]
          : ['xml', describeLibxlGuest(vm, guest)]
      await writeFile(join(where.definitions, `${vm}.${as}`), text)
      // A libvirtd that holds a job on a guest lets nobody end it: it has to begin anew, and to be told of what is there.
      const isLibxl = where.tool === 'libxl'
      const begin = `rm -rf /var/lib/ferry/guests; ${isLibxl ? 'kill -9 $(cat /run/libvirtd.pid)' : ':'}`
      for (const name of names) await hosts.shell(name, begin)
      const [here = [], there = []] = await Promise.all(names.map(domains))
      const [only = ''] = here
      const [domid = '', state = ''] = only.split(' ')
      // One that is there, and well, is as good as one that has to come up first.
      if (here.length === 1 && there.length === 0 && /^..-/.test(state) && /^...-/.test(state)) {
        await hosts.run('source', 'xl', 'rename', domid, vm)
        if (isLibxl) await hosts.run('source', 'sh', '-c', renamed(vm))
      } else
        for (const [nth, found] of [here, there].entries()) {
          const name = names[nth] ?? ''
          for (const each of found) await hosts.run(name, 'xl', 'destroy', each.split(' ')[0] ?? '')
          await hosts.shell(name, 'rm -f /var/log/xen/console/guest-* /run/libvirt/libxl/*.xml')
        }
      if (isLibxl) await Promise.all(names.map(hosts.startLibvirt))
    },
    close: async () => {
      await hosts.close()
      await rm(folder, { recursive: true })
    },
  }
}

/** What a libvirtd that begins anew takes its guests from. */
const renamed = (vm: string) =>
  `cd /run/libvirt/libxl; for file in guest*.xml; do sed 's/<name>guest.*</<name>${vm}</' $file > new && rm $file; done; mv new ${vm}.xml`

const LIST = `xl list | awk 'NR > 1 && $2 != 0 { print $2, $5 }'`

import type { PerformOrder } from '@ferry/host-agent/driver'
import { driverContract } from '../contract/driver.ts'
import type { DriverHost } from '../contract/driver.ts'
import { until } from '../until.ts'
import { lastCount } from './xen-guest.ts'
import type { XenGuest } from './xen-guest.ts'
import { LOOK_EVERY_MS } from './xen-hosts.ts'
import type { XenTool } from './xen-hosts.ts'
import { PATIENCE_MS, names, openXenSeats } from './xen-seats.ts'

/** A PV guest leaves only where it may stand still for as long as that takes, at the least that a limit allows. */
const STILL_MS = 600_000
const SLOW_BYTES_PER_SECOND = 2 ** 18

/** Every promise of a driver, of the one that runs in a dom0; its death there is the real one. */
export const xenContract = (name: string, guest: XenGuest, tool: XenTool = 'xl'): void =>
  driverContract(name, async () => {
    const seats = await openXenSeats(tool)
    const { hosts, close } = seats
    const host = (which: (typeof names)[number]): DriverHost => {
      const { driver, crash } = seats[which]
      const memory = async () => {
        const seen = await lastCount(hosts, which)
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
    const domains = async (name: string) =>
      (await hosts.run(name, 'sh', '-c', LIST)).trim().split('\n').filter(Boolean)
    return {
      source: host('source'),
      target: host('target'),
      lookEveryMs: LOOK_EVERY_MS,
      slow: { bytesPerSecond: SLOW_BYTES_PER_SECOND, patienceMs: PATIENCE_MS },
      close,
      define: async (vm) => {
        await seats.define(vm, guest)
        // A libvirtd that holds a job on a guest lets nobody end it: it has to begin anew, and to be told of what is there.
        const isLibxl = tool === 'libxl'
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
            for (const each of found)
              await hosts.run(name, 'xl', 'destroy', each.split(' ')[0] ?? '')
            await hosts.shell(name, 'rm -f /var/log/xen/console/guest-* /run/libvirt/libxl/*.xml')
          }
        if (isLibxl) await Promise.all(names.map(hosts.startLibvirt))
      },
    }
  })

/** What a libvirtd that begins anew takes its guests from. */
const renamed = (vm: string) =>
  `cd /run/libvirt/libxl; for file in guest*.xml; do sed 's/<name>guest.*</<name>${vm}</' $file > new && rm $file; done; mv new ${vm}.xml`

const LIST = `xl list | awk 'NR > 1 && $2 != 0 { print $2, $5 }'`

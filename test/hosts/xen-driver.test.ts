import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { putPrograms } from '../lab/programs.ts'
import { driverContract } from '../contract/driver.ts'
import type { DriverHost } from '../contract/driver.ts'
import { openFarDriver } from '../lab/xen-driver.ts'
import { describeXenGuest, lastCount } from '../lab/xen-guest.ts'
import { LOOK_EVERY_MS, openXenHosts } from '../lab/xen-hosts.ts'
import { until } from '../until.ts'

const names = ['source', 'target'] as const
const PATIENCE_MS = 120_000

/** The driver runs in each dom0, and its death there is the real one. */
driverContract('xen', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-'))
  const [programs, definitions] = [join(folder, 'programs'), join(folder, 'vms')]
  await mkdir(definitions)
  await putPrograms(['test/lab/xen-seat.ts'], programs)
  const hosts = await openXenHosts(folder, names)
  const host = async (name: string): Promise<DriverHost> => {
    const { driver, crash } = await openFarDriver(hosts, name, { programs, definitions })
    const memory = async (vm: string) => {
      const seen = await lastCount(hosts, name, vm)
      return { fault: seen?.fault, sweeps: seen?.count ?? -1 }
    }
    /** One that has not come up cannot be suspended either. */
    const start = async (vm: string) => {
      const begun = await driver.start(vm)
      if ('refusal' in begun) return begun
      await until(
        `${vm} to count`,
        async () => (await memory(vm)).sweeps > 0,
        PATIENCE_MS,
        LOOK_EVERY_MS,
      )
      return begun
    }
    return { driver: () => ({ ...driver, start }), crash, memory }
  }
  try {
    const [source, target] = [await host('source'), await host('target')]
    return {
      source,
      target,
      lookEveryMs: LOOK_EVERY_MS,
      define: async (vm) => {
        // There is room for one at a time.
        for (const name of names) {
          await hosts.shell(name, ENDS_ALL)
          await hosts.shell(name, 'rm -rf /var/lib/ferry/guests /var/log/xen/console/guest-*')
        }
        await writeFile(join(definitions, `${vm}.cfg`), describeXenGuest(vm, 'pvh'))
      },
      close: async () => {
        await hosts.close()
        await rm(folder, { recursive: true })
      },
    }
  } catch (error) {
    await hosts.close()
    await rm(folder, { recursive: true })
    throw error
  }
})

const ENDS_ALL = `for id in $(xl list | awk 'NR > 1 && $2 != 0 { print $2 }'); do xl destroy "$id"; done`

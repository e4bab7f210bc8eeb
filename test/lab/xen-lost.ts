import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { until } from '../until.ts'
import { ENDED_MS, PATIENCE_MS, patient } from './xen-fleet.ts'
import type { XenStory } from './xen-fleet.ts'
import { describeXenGuest, lastCount } from './xen-guest.ts'
import { LOOK_EVERY_MS } from './xen-hosts.ts'
import { migrateWithXl } from './xen-relay.ts'

/** The last two words between two hosts get lost: what becomes of a guest that xl sends, and of one that Ferry sends. */
export const lostWords: XenStory = {
  title:
    'the source of plain xl looks the same for a guest that runs and for one that is gone; Ferry’s is told',
  tell: async (fleet, vm) => {
    const { lab, hosts, folder, domains, start, startAgent, kill, move, ended, onlyOn } = fleet
    const seen: Record<string, Awaited<ReturnType<typeof domains>>> = {}
    for (const lost of ['go', 'report'] as const) {
      const plain = `plain-${lost}`
      const file = join(folder, `${plain}.cfg`)
      await writeFile(file, describeXenGuest(plain, 'small'))
      await hosts.run('rack1', 'xl', 'create', '-q', file)
      const hasCounted = async () => (await lastCount(hosts, 'rack1', plain)) !== undefined
      await until(`${plain} to count`, hasCounted, PATIENCE_MS, LOOK_EVERY_MS)
      await migrateWithXl(hosts, { vm: plain, source: 'rack1', target: 'rack2', lost })
      const isSettled = async () => !(await domains()).rack2.includes('--incoming')
      await until('the target to have made up its mind', isSettled, PATIENCE_MS, LOOK_EVERY_MS)
      seen[lost] = await domains()
      await hosts.run('rack1', 'xl', 'destroy', `${plain}--migratedaway`)
      await hosts.shell('rack2', `xl destroy ${plain}`)
    }
    assert.equal(seen, {
      go: { rack1: 'plain-go--migratedaway ---ss-', rack2: '' },
      report: { rack1: 'plain-report--migratedaway ---ss-', rack2: 'plain-report running' },
    })

    await start(vm, 'small')
    const committed = lab.event('the verdict', ({ type }) => type === 'Committed', ENDED_MS)
    await move(`${vm}-go`, vm, 'rack2', patient)
    await committed
    await kill('rack2', vm, ['agent', 'mover'])
    await startAgent('rack2')
    assert.is((await ended(`${vm}-go`)).phase, 'completed')
    await onlyOn('rack2', vm)

    await move(`${vm}-report`, vm, 'rack1', patient)
    const runs = async () => / running/.test((await domains()).rack1)
    await until(`${vm} to run on the target`, runs, ENDED_MS, LOOK_EVERY_MS)
    await kill('rack1', vm, ['agent', 'mover'])
    await startAgent('rack1')
    assert.is((await ended(`${vm}-report`)).phase, 'completed')
    await onlyOn('rack1', vm)
  },
}

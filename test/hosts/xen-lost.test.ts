import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ENDED_MS, PATIENCE_MS, patient, withXenFleet } from '../lab/xen-fleet.ts'
import { describeXenGuest, lastCount } from '../lab/xen-guest.ts'
import { LOOK_EVERY_MS } from '../lab/xen-hosts.ts'
import { migrateWithXl } from '../lab/xen-relay.ts'
import { until } from '../until.ts'

/** The last two words between two hosts get lost: what becomes of a guest that xl sends, and of one that Ferry sends. */
const test = suite('a last word that gets lost')

test('the source of plain xl looks the same for a guest that runs and for one that is gone; Ferry’s is told', () =>
  withXenFleet(async ({ lab, hosts, domains, start, startAgent, kill, move, ended, onlyOn }) => {
    const seen: Record<string, Awaited<ReturnType<typeof domains>>> = {}
    for (const lost of ['go', 'report'] as const) {
      const vm = `plain-${lost}`
      const file = join(lab.folder, `${vm}.cfg`)
      await writeFile(file, describeXenGuest(vm, 'small'))
      await hosts.run('rack1', 'xl', 'create', '-q', file)
      const hasCounted = async () => (await lastCount(hosts, 'rack1', vm)) !== undefined
      await until(`${vm} to count`, hasCounted, PATIENCE_MS, LOOK_EVERY_MS)
      await migrateWithXl(hosts, { vm, source: 'rack1', target: 'rack2', lost })
      const isSettled = async () => !(await domains()).rack2.includes('--incoming')
      await until('the target to have made up its mind', isSettled, PATIENCE_MS, LOOK_EVERY_MS)
      seen[lost] = await domains()
      await hosts.run('rack1', 'xl', 'destroy', `${vm}--migratedaway`)
      await hosts.shell('rack2', `xl destroy ${vm}`)
    }
    assert.equal(seen, {
      go: { rack1: 'plain-go--migratedaway ---ss-', rack2: '' },
      report: { rack1: 'plain-report--migratedaway ---ss-', rack2: 'plain-report running' },
    })

    await start('web1', 'small')
    const committed = lab.event('the verdict', ({ type }) => type === 'Committed', ENDED_MS)
    await move('go', 'web1', 'rack2', patient)
    await committed
    await kill('rack2', 'web1', ['agent', 'mover'])
    await startAgent('rack2')
    assert.is((await ended('go')).phase, 'completed')
    await onlyOn('rack2', 'web1')

    await move('report', 'web1', 'rack1', patient)
    const runs = async () => / running/.test((await domains()).rack1)
    await until('web1 to run on the target', runs, ENDED_MS, LOOK_EVERY_MS)
    await kill('rack1', 'web1', ['agent', 'mover'])
    await startAgent('rack1')
    assert.is((await ended('report')).phase, 'completed')
    await onlyOn('rack1', 'web1')
  }))

test.run()

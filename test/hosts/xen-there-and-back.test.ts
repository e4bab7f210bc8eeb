import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { other, patient, racks, withXenFleet } from '../lab/xen-fleet.ts'
import type { XenFleet } from '../lab/xen-fleet.ts'
import { countsOf } from '../lab/xen-guest.ts'

/** Whole hosts: Xen and its dom0 each, and Ferry's agents in them as real processes. */
const test = suite('a guest of Xen')

/** Every number that it has counted to was counted once, on one of the hosts; a move may cut a line in two. */
async function countedOnce({ hosts }: XenFleet, vm: string, moves: number): Promise<void> {
  const lists = await Promise.all(racks.map((rack) => countsOf(hosts, rack, vm)))
  const counts = lists.flat().map(({ count }) => count)
  assert.is(new Set(counts).size, counts.length, 'a number was counted to twice')
  const missing = Math.max(...counts) + 1 - counts.length
  assert.ok(missing <= moves, `${missing} numbers are missing after ${moves} moves`)
  assert.is(
    lists.flat().find(({ fault }) => fault !== undefined),
    undefined,
  )
}

test('moves there and back while it runs (PVH), or standing still (PV), and every number is counted once', () =>
  withXenFleet(async (fleet) => {
    const { start, move, ended, onlyOn, domains } = fleet
    await start('web1', 'pvh')
    let at: (typeof racks)[number] = 'rack1'
    for (const request of ['there', 'back', 'there-again']) {
      at = other(at)
      await move(request, 'web1', at, patient)
      assert.is((await ended(request)).phase, 'completed')
      await onlyOn(at, 'web1')
    }
    await countedOnce(fleet, 'web1', 3)

    await start('web2', 'pv')
    await move('not-so-still', 'web2', 'rack2')
    const refused = await ended('not-so-still')
    assert.is(refused.phase, 'abandoned')
    assert.match(JSON.stringify(refused), 'stands still for some')
    assert.match((await domains()).rack1, 'web2 running')
    for (const target of ['rack2', 'rack1'] as const) {
      await move(`pv-to-${target}`, 'web2', target, patient)
      assert.is((await ended(`pv-to-${target}`)).phase, 'completed')
    }
    await countedOnce(fleet, 'web2', 2)
  }))

test.run()

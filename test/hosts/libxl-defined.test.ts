import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { VIRSH, other, patient, withXenFleet } from '../lab/xen-fleet.ts'
import type { Rack } from '../lab/xen-fleet.ts'

const test = suite('a guest of Xen that is defined in libvirt')

test('is defined where it runs, and nowhere else', () =>
  withXenFleet(async ({ hosts, start, move, ended, onlyOn, countedOnce }) => {
    /** Dom0 is among libvirt's persistent domains as well. */
    const isDefinedOn = async (rack: Rack) =>
      (await hosts.run(rack, ...VIRSH, 'list', '--all', '--persistent', '--name')).includes('web1')
    await start('web1', 'small', 'defined')
    let at: Rack = 'rack1'
    for (const request of ['there', 'back']) {
      assert.ok(await isDefinedOn(at))
      at = other(at)
      await move(request, 'web1', at, patient)
      assert.is((await ended(request)).phase, 'completed')
      await onlyOn(at, 'web1')
      assert.not.ok(await isDefinedOn(other(at)))
    }
    assert.ok(await isDefinedOn(at))
    await countedOnce('web1', 2)
  }, 'libxl'))

test.run()

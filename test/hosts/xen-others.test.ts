import * as assert from 'uvu/assert'
import { VIRSH, other, patient, xenStories } from '../lab/xen-fleet.ts'
import type { Rack, XenStory } from '../lab/xen-fleet.ts'
import { thereAndBack } from '../lab/xen-there-and-back.ts'

const defined: XenStory = {
  title: 'a guest that is defined in libvirt is defined where it runs, and nowhere else',
  tell: async ({ hosts, start, move, ended, onlyOn, countedOnce }, vm) => {
    /** Dom0 is among libvirt's persistent domains as well. */
    const isDefinedOn = async (rack: Rack) =>
      (await hosts.run(rack, ...VIRSH, 'list', '--all', '--persistent', '--name')).includes(vm)
    await start(vm, 'small', 'defined')
    let at: Rack = 'rack1'
    for (const way of ['there', 'back']) {
      assert.ok(await isDefinedOn(at))
      at = other(at)
      await move(`${vm}-${way}`, vm, at, patient)
      assert.is((await ended(`${vm}-${way}`)).phase, 'completed')
      await onlyOn(at, vm)
      assert.not.ok(await isDefinedOn(other(at)))
    }
    assert.ok(await isDefinedOn(at))
    await countedOnce(vm, 2)
  },
}

xenStories('other guests of Xen', {
  xl: [
    thereAndBack('a Linux guest with a disk and a card', 'linux'),
    thereAndBack('an HVM guest, and its device model,', 'small hvm'),
  ],
  libxl: [
    thereAndBack('a Linux guest of libvirt with a disk and a card', 'linux'),
    thereAndBack('an HVM guest of libvirt', 'small hvm'),
    defined,
  ],
})

import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readTimeline } from '@ferry/coordinator/cli/explain'
import type { MigrationView } from '@ferry/schemas/view'
import { smallGuest } from '../guest/boot-sector.ts'
import { killIn } from '../kill.ts'
import { moments, sceneOf, victims } from '../lab/libvirt-blows.ts'
import type { Scene } from '../lab/libvirt-blows.ts'
import { bootSectorGuest, other, racks, withGuest } from '../lab/libvirt-stage.ts'
import type { Rack, Stage } from '../lab/libvirt-stage.ts'

/** The image goes from QEMU to QEMU, over libvirt's own TCP, because an operator wants that. */
const test = suite('a guest of libvirt that goes directly')

const direct = { directConnections: 1 }

const arrived = async (stage: Stage, request: string, target: Rack): Promise<MigrationView> => {
  const view = await stage.ended(request)
  assert.is(view.phase, 'completed')
  await stage.onlyOn(target)
  return view
}

test('moves there and back five times, over one connection and over four, and its image passes no agent', () =>
  withGuest(bootSectorGuest(), async (stage) => {
    const { lab, network, move } = stage
    for (let nth = 1; nth <= 10; nth++) {
      const target = nth % 2 === 1 ? 'rack2' : 'rack1'
      const before = [await network.passedBytes(), lab.link(target).passedBytes()] as const
      await move(`m${nth}`, target, { directConnections: nth % 4 < 2 ? 1 : 4 })
      assert.is((await arrived(stage, `m${nth}`, target)).attempt, 1)
      const { copy } = (await readTimeline(lab.connection, `m${nth}`)).attempts[0] ?? {}
      const passed = (await network.passedBytes()) - before[0]
      assert.is(lab.link(target).passedBytes(), before[1])
      assert.ok(copy !== undefined && copy.bytes > 2 ** 20 && copy.bytes < passed, `${passed}`)
    }
  }))

test.run()

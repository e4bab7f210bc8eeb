import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readTimeline } from '@ferry/coordinator/cli/explain'
import { smallGuest } from '../guest/boot-sector.ts'
import { moments, sceneOf, victims } from '../lab/libvirt-blows.ts'
import type { Moment, Scene, Victim } from '../lab/libvirt-blows.ts'
import { bootSectorGuest, other, withGuest } from '../lab/libvirt-stage.ts'
import type { Rack, Stage } from '../lab/libvirt-stage.ts'

/**
 * Whoever has a part in moving a guest of libvirt is killed behind every fact of it, and comes back: the agents and their
 * libvirtds at once, a mover when its agent is asked again. Who is killed while the image flows is in `libvirt-there-and-back`.
 */
const test = suite('somebody who moves a guest of libvirt is killed')

/** Two seconds to copy, so that nothing ends before a link holds it. */
const SWEPT_BYTES = smallGuest.toByte - smallGuest.fromByte
const SLOWLY = { bandwidthBytesPerSecond: SWEPT_BYTES / 2, downtimeMs: 4000 }

const cells = (Object.keys(moments) as Moment[]).flatMap((moment) =>
  (Object.keys(victims) as Victim[])
    .filter((victim) => victims[victim].moments?.includes(moment) ?? true)
    .map((victim) => ({ moment, victim })),
)

test(`one whole guest runs on the target after each of ${cells.length} blows`, () =>
  withGuest(bootSectorGuest(smallGuest, 64), async (stage) => {
    let rack: Rack = 'rack1'
    console.log('| behind | killed | outcome |\n| --- | --- | --- |')
    for (const [nth, { moment, victim }] of cells.entries()) {
      const target = other(rack)
      const outcome = await played(stage, `m${nth}`, target, moment, victim)
      console.log(`| ${moments[moment].fact} | ${victim} | ${outcome} |`)
      rack = target
    }
  }))

async function played(
  stage: Stage,
  request: string,
  target: Rack,
  moment: Moment,
  victim: Victim,
): Promise<string> {
  const scene = await sceneOf(stage, request, target)
  try {
    await struck(scene, request, moment, victim)
    const { phase } = await stage.ended(request)
    assert.is(phase, 'completed', `${victim} behind ${moment}`)
    await stage.onlyOn(target)
    const { attempts } = await readTimeline(stage.lab.connection, request)
    const whys = attempts.flatMap(({ verdict }) => verdict?.cause ?? [])
    return attempts.length === 1
      ? 'completed'
      : `completed, attempt ${attempts.length} (${whys.map(inWords).join(', ')})`
  } finally {
    scene.letGo()
    scene.telling.close()
  }
}

async function struck(
  scene: Scene,
  request: string,
  moment: Moment,
  victim: Victim,
): Promise<void> {
  const { fact, hold } = moments[moment]
  await scene.move(request, scene.target, SLOWLY)
  await hold(scene)
  await scene.telling.first(fact)
  await victims[victim].strike(scene)
  scene.letGo()
}

const inWords = (cause: { readonly type: string }): string =>
  'failure' in cause ? (cause.failure as { readonly type: string }).type : cause.type

test.run()

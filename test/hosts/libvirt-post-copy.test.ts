import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readTimeline } from '@ferry/coordinator/cli/explain'
import { sceneOf, victims } from '../lab/libvirt-blows.ts'
import type { Victim } from '../lab/libvirt-blows.ts'
import { NEVER_DONE } from '../lab/libvirt-post-copy.ts'
import { bootSectorGuest, other, withGuest } from '../lab/libvirt-stage.ts'
import type { Rack, Stage } from '../lab/libvirt-stage.ts'

const test = suite('post-copy')

test('brings a guest there and back five times that would never get there otherwise', () =>
  withGuest(bootSectorGuest(), async ({ lab, move, ended, onlyOn }) => {
    for (let nth = 1; nth <= 10; nth++) {
      const target = nth % 2 === 1 ? 'rack2' : 'rack1'
      await move(`m${nth}`, target, NEVER_DONE)
      const { phase, attempt } = await ended(`m${nth}`)
      assert.equal([phase, attempt], ['completed', 1])
      await onlyOn(target)
      const { attempts } = await readTimeline(lab.connection, `m${nth}`)
      const said = attempts[0]?.said.map(({ what }) => what) ?? []
      const order = ['SourcePaused', 'Committed', 'Performed', 'TargetFetching', 'TargetRunning']
      assert.equal(
        said.filter((what) => order.includes(what)),
        order,
      )
      console.log(`m${nth}: ${Math.round(attempts[0]?.downtime?.ms ?? Number.NaN)} ms of downtime`)
    }
  }))

/** Behind each of these facts, who is killed; what would end the first moment is held back until then. */
const whens = {
  fetching: { fact: 'TargetFetching', holdsTarget: false },
  offered: { fact: 'SourcePaused', holdsTarget: true },
  committed: { fact: 'Committed', holdsTarget: false },
} as const
type When = keyof typeof whens

const everybody = Object.keys(victims) as Victim[]
/** A libvirtd that comes back ends what it was receiving, and by then nobody else has all of the guest. */
const isFatal = (when: When, victim: Victim) => when === 'committed' && victim === 'target libvirtd'
const hasEnded = (when: When, victim: Victim) => when === 'fetching' && victim === 'source mover'
const cells = (Object.keys(whens) as When[])
  .flatMap((when) => everybody.map((victim) => ({ when, victim })))
  .filter(({ when, victim }) => !isFatal(when, victim) && !hasEnded(when, victim))

test(`one whole guest runs after each of ${cells.length} blows`, () =>
  withGuest(bootSectorGuest(), async (stage) => {
    let rack: Rack = 'rack1'
    console.log('| when | killed | outcome |\n| --- | --- | --- |')
    for (const [nth, { when, victim }] of cells.entries()) {
      const target = other(rack)
      const { outcome, home } = await struck(stage, `k${nth}`, target, when, victim)
      console.log(`| ${when} | ${victim} | ${outcome} |`)
      rack = home
    }
    // The one that it does not survive, as nobody's post-copy does: it is asked about, and not called completed.
    const target = other(rack)
    const scene = await sceneOf(stage, 'last', target, stage.network.passedBytes)
    try {
      await stage.move('last', target, NEVER_DONE)
      await scene.telling.first('Committed')
      await victims['target libvirtd'].strike(scene)
      await scene.telling.first('DoubtRaised')
      console.log('| committed | target libvirtd | in doubt |')
    } finally {
      scene.telling.close()
    }
  }))

async function struck(stage: Stage, request: string, target: Rack, when: When, victim: Victim) {
  const scene = await sceneOf(stage, request, target, stage.network.passedBytes)
  const { fact, holdsTarget } = whens[when]
  try {
    await stage.move(request, target, NEVER_DONE)
    await scene.imageFlows()
    if (holdsTarget) scene.hold(stage.lab.logLink(target), 'in')
    await scene.telling.first(fact)
    await victims[victim].strike(scene)
    scene.letGo()
    const { phase, attempt } = await stage.ended(request)
    const home = phase === 'completed' ? target : other(target)
    await stage.onlyOn(home)
    return { outcome: `${phase}, attempt ${attempt}`, home }
  } finally {
    scene.letGo()
    scene.telling.close()
  }
}

test.run()

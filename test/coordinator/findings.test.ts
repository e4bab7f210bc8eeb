import { findings } from '@ferry/coordinator/decide/findings'
import type { GuestState, MadeFor } from '@ferry/schemas/guest'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import {
  RIGHT,
  SOME_KEY,
  abandoned,
  cancelled,
  committed,
  completed,
  doubtRaised,
  fenced,
  hostReported,
  logBehind,
  performed,
  requested,
  sourcePaused,
  sourceResumed,
  targetRunning,
  upToPerforming,
} from '../events/examples.ts'
import { withFleet } from '../fleet-in-process.ts'
import { tell } from '../story.ts'
import type { Telling } from '../story.ts'
import { until } from '../until.ts'

/** What `ferry doctor --fleet` lists: each by its name, with what to do, and with the events that it follows from. */

/** Taken after all that the host has said. */
const late = { asOf: 1000 }
const has = (host: string, state: GuestState, receives?: MadeFor, key = SOME_KEY) => {
  const guest = { vm: 'web1', state, ...(receives === undefined ? {} : { receives }) }
  return hostReported(host, [guest], { ...late, key })
}
const hasNothing = (host: string, key = SOME_KEY) => hostReported(host, [], { ...late, key })
const otherKey = `X${'B'.repeat(55)}`

function told(telling: readonly Telling[], silent: readonly string[] = []) {
  const { fleet, entries } = tell(...telling)
  const alive = new Set([...fleet.hosts.keys()].filter((host) => !silent.includes(host)))
  const typeAt = (position: number) => {
    const message = entries[position - 1]?.message
    return message?.is === 'event' ? message.event.type : 'nothing'
  }
  return findings(fleet, alive).map((each) => ({
    ...each,
    text: `${each.name} ${each.about}`,
    cited: new Set(each.cites.map(typeAt)),
  }))
}
const named = (...telling: readonly Telling[]) => told(telling).map(({ text }) => text)

/** The only thing that is found. */
function one(telling: readonly Telling[], silent: readonly string[] = []) {
  const found = told(telling, silent).filter(({ name }) => name !== 'HostSilent')
  const [first] = found
  assert.ok(first !== undefined && found.length === 1, JSON.stringify(found))
  return first
}

const switching = [...upToPerforming(), sourcePaused({ admission: RIGHT }), performed()]
const gaveUp = [cancelled(), abandoned()]

test('where log and world agree nothing is found', () => {
  assert.equal(named(has('rack1', 'running'), hasNothing('rack2')), [])
  assert.equal(named(has('rack1', 'running'), requested()), [])
  assert.equal(named(has('rack1', 'paused'), hasNothing('rack2')), [])
  // It was stopped, or has ended by itself.
  assert.equal(named(has('rack1', 'running'), hasNothing('rack1')), [])
})

test('a guest that two hosts report running is to be stopped on one, whoever started it', () => {
  const twice = [has('rack1', 'running'), has('rack2', 'running')]
  assert.match(one(twice).todo, /Stop the other by hand/)
  assert.equal(one(twice).cites, [1, 2])
  const { found } = one(twice, ['rack1'])
  assert.is(found, 'It runs on rack1 and rack2. Of rack1 that is the last word.')
})

test('one of two that stands behind a fence is stale, and its agent ends it', () => {
  const behind = [committed(), fenced(), sourceResumed(), abandoned()]
  const both = [has('rack1', 'running'), has('rack2', 'running')]
  const { name, todo, cited } = one([...switching, ...behind, ...both])
  assert.is(name, 'RunsTwice')
  assert.match(todo, /The copy on rack2 is stale/)
  assert.ok(cited.has('Fenced'))
})

test('both paused: the verdict says whose it is; without one nobody guesses', () => {
  const both = [has('rack1', 'sent'), has('rack2', 'paused')]
  const home = one([...switching, ...gaveUp, ...both])
  assert.is(home.text, 'BothPaused web1')
  assert.match(home.todo, /belongs to rack1: end the copy on rack2 by hand/)
  assert.ok(home.cited.has('Cancelled') && home.cited.has('Abandoned'))
  const there = one([...switching, committed(), targetRunning(), completed(), ...both])
  assert.match(there.todo, /belongs to rack2: end the copy on rack1 by hand/)
  assert.ok(there.cited.has('Committed'))
  assert.match(one(both).todo, /Nothing in the log says so/)
})

test('both paused, and a host that was silent owes something: it settles that itself', () => {
  const owing = abandoned()
  const duties = [{ host: 'rack1', command: 'Cancel' }]
  const late = { ...owing, data: { ...owing.data, openDuties: duties } }
  const both = [has('rack1', 'sent'), has('rack2', 'paused')]
  assert.match(one([...switching, cancelled(), late, ...both]).todo, /rack1 owes Cancel since/)
})

test('a copy that stands alone and does not run is named', () => {
  assert.equal(named(has('rack1', 'sent'), hasNothing('rack2')), ['RunsNowhere web1'])
})

test('in doubt, with the question that fits what the target says now', () => {
  const doubted = [...switching, committed(), doubtRaised()]
  const silent = one([...doubted, has('rack1', 'sent')], ['rack2'])
  assert.is(silent.text, 'InDoubt web1')
  assert.match(silent.todo, /does not answer.*ferry resolve m1 --fenced rack2/)
  assert.ok(silent.cited.has('Committed') && silent.cited.has('DoubtRaised'))
  const other = one([...doubted, has('rack1', 'sent'), hasNothing('rack2', otherKey)])
  assert.match(other.todo, /no copy of it.*--insist/)
})

test('a guest that was on a machine which was replaced is asked about, until it is seen again', () => {
  const gone = [has('rack1', 'running'), hasNothing('rack1', otherKey)]
  const { text, cites, todo } = one(gone)
  assert.is(text, 'GoneWithHost web1')
  assert.equal(cites, [1, 2])
  assert.match(todo, /ferry start web1 --on HOST/)
  const again = [...gone, has('rack2', 'running'), hasNothing('rack2')]
  assert.equal(named(...again), [])
  // Only the agent's memory was lost.
  assert.equal(named(has('rack1', 'running'), has('rack1', 'running', undefined, otherKey)), [])
})

test('a copy that a migration has left is told from one that no migration in the log has made', () => {
  const mark = { migration: 'm1', attempt: 1 }
  const left = one([...switching, ...gaveUp, has('rack1', 'running'), has('rack2', 'loaded', mark)])
  assert.is(left.text, 'Orphan web1')
  assert.match(left.todo, /rack2 clears its copy/)
  assert.ok(left.cited.has('Abandoned') && left.cited.has('HostReported'))
  const strange = one([has('rack1', 'running'), has('rack2', 'loaded', mark)])
  assert.is(strange.text, 'UnknownCopy web1')
  assert.match(strange.found, /No migration in the log has the id m1/)
  assert.is(one([has('rack1', 'running'), has('rack2', 'sent')]).text, 'UnknownCopy web1')
})

test('on a log that has lost its tail everything points to its recovery', () => {
  const alarmed = [...switching, logBehind(), has('rack1', 'sent'), has('rack2', 'running')]
  assert.equal(named(...alarmed), ['LogBehind rack2', 'RunsElsewhere web1'])
})

test('started by hand on a second host: it is found, and not moved until that is cleared up', () =>
  withFleet(['rack1', 'rack2', 'rack3'], {}, async (fleet) => {
    await fleet.start('web1', 'rack1')
    const [one, other] = ['rack1', 'rack3'].map((host) => fleet.hosts.get(host))
    const copy = one?.world.guests.get('web1')
    assert.ok(copy)
    await other?.stopAgent()
    other?.world.guests.set('web1', { ...copy, memory: Buffer.from(copy.memory) })
    other?.startAgent()
    const state = () => fleet.coordinator().fleet()
    await until('rack3 to report it', () => state().guests.get('web1')?.seenOn.rack3 !== undefined)
    const alive = new Set(['rack1', 'rack2', 'rack3'])
    assert.equal(
      findings(state(), alive).map(({ name }) => name),
      ['RunsTwice'],
    )
    const refused = await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    assert.is(
      refused.accepted ? '' : refused.sentence,
      'web1 is reported running on rack1 and rack3; that must be cleared up before it is moved.',
    )
    // Stopped there by hand, it may go.
    await other?.stopAgent()
    other?.world.guests.delete('web1')
    other?.startAgent()
    await until('rack2 to get it', async () => {
      const asked = await fleet.migrate({ request: 'm2', vm: 'web1', target: 'rack2' })
      return asked.accepted
    })
    assert.is((await fleet.ended('m2')).phase, 'completed')
  }))

test.run()

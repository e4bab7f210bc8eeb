import { fleetView } from '@ferry/coordinator/views'
import { parse } from '@ferry/schemas/parse'
import { FleetView } from '@ferry/schemas/view'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { abandoned, hostReported, requested } from '../events/examples.ts'
import { tell, worldAfter } from '../story.ts'

const test = suite('the view of the fleet')

const HOUR_MS = 60 * 60 * 1000
const movedOnce = [
  hostReported('rack1', [{ vm: 'web1', state: 'running' }]),
  requested(),
  abandoned(),
]

test('a guest that left is shown with its last migration for a day, and by its name behind that', () => {
  const told = tell(...movedOnce, hostReported('rack1'))
  const after = (laterMs: number) => fleetView(told.fleet, worldAfter(told, laterMs)).guests
  assert.equal(
    after(HOUR_MS).map(({ vm, migration }) => [vm, migration?.phase]),
    [['web1', 'abandoned']],
  )
  assert.equal(after(25 * HOUR_MS), [{ vm: 'web1', copies: [], isAlarming: false }])
})

test('a guest that is there is shown with its last migration for ever', () => {
  const told = tell(...movedOnce)
  const [web1] = fleetView(told.fleet, worldAfter(told, 1000 * HOUR_MS)).guests
  assert.is(web1?.migration?.phase, 'abandoned')
})

test('it fits its schema however many hosts cannot take a guest', () => {
  const others = Array.from({ length: 60 }, (_, at) => hostReported(`${'rack'.repeat(30)}${at}`))
  const source = hostReported('rack1', [{ vm: 'web1', state: 'running' }])
  const told = tell(source, ...others, requested())
  const view = fleetView(told.fleet, worldAfter(told, 0, {}, { alive: new Set(['rack1']) }))
  parse(FleetView, view, 'the view')
  assert.match(view.guests[0]?.migration?.waitsFor ?? '', 'and 55 others')
})

test.run()

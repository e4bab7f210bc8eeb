import { refused } from '@ferry/coordinator/refused'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../events/examples.ts'
import { ferryAt } from './lab.ts'
import { withStandIn } from './stand-in.ts'

/** The command line, and a coordinator that answers as none of this release would. */
const test = suite('an answer out of the ordinary')

test('that does not fit is no mistake of who asked', () =>
  withStandIn({ fleet: async () => ({ position: 'far' }) }, async (server) => {
    const { code, stderr } = await ferryAt(server, 'fleet')
    assert.is(code, 1, stderr)
    assert.match(stderr, /^The coordinator's answer to fleet was not understood: .*\n$/)
  }))

test('that refuses to say how a migration goes is printed as a refusal', () => {
  const answers = {
    migrate: async () => ({ accepted: true, id: 'm1', position: 7 }),
    status: async () => refused({ type: 'UnknownMigration', migration: 'm1' }),
  }
  return withStandIn(answers, async (server) => {
    const { code, stderr } = await ferryAt(server, 'migrate', 'web1', '--wait')
    assert.is(code, 3, stderr)
    assert.is(stderr, 'There is no migration m1.\n')
  })
})

test('that lags behind the order to start a guest does not say that its host would not', () => {
  const web1 = {
    vm: 'web1',
    copies: [{ host: 'rack1', state: 'running', needs }],
    isAlarming: false,
  }
  const views = [
    { position: 6, hosts: [], guests: [] },
    { position: 7, hosts: [], guests: [{ ...web1, copies: [], startingOn: 'rack1' }] },
    { position: 8, hosts: [], guests: [web1] },
  ]
  const answers = {
    start: async () => ({ accepted: true, id: 's1', position: 7 }),
    fleet: async () => views.shift(),
  }
  return withStandIn(answers, async (server) => {
    const { code, stdout, stderr } = await ferryAt(server, 'start', 'web1', '--on', 'rack1')
    assert.is(code, 0, stderr)
    assert.is(stdout, 'web1 runs on rack1.\n')
  })
})

test.run()

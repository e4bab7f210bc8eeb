import { verbsOf } from '@ferry/coordinator/api'
import type { Log } from '@ferry/events/log'
import type { Verbs } from '@ferry/events/log/requests'
import { decisions } from '@ferry/events/subjects'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { hostReported, requested } from '../events/examples.ts'
import { withFleet } from '../fleet-in-process.ts'

/** What a coordinator is asked, and another one has just recorded. */
const test = suite('a coordinator that lags behind the log')

const asked: readonly [verb: string, more: object, answer: string][] = [
  ['status', {}, '"phase":"queued"'],
  ['cancel', { by: 'ops' }, '"accepted":true'],
  ['limit', { by: 'ops', downtimeMs: 1 }, '"accepted":true'],
  ['resolve', { by: 'ops', fenced: 'rack2' }, 'NothingToFence'],
]
for (const [verb, more, answer] of asked)
  test(`looks there before it says that it knows no such migration, asked for ${verb}`, () =>
    lagging(async (verbs, catchUp) => {
      const answering = verbs[verb]?.answer({ migration: 'm1', ...more })
      catchUp()
      assert.match(JSON.stringify(await answering), answer)
      const none = await verbs[verb]?.answer({ migration: 'm2', ...more })
      assert.match(JSON.stringify(none), 'UnknownMigration')
    }))

test('looks there before it says that it knows no such guest', () =>
  lagging(async (verbs, catchUp) => {
    const toRack1 = { target: 'rack1', by: 'ops' }
    const answering = verbs['migrate']?.answer({ ...toRack1, request: 'm2', vm: 'web2' })
    catchUp()
    assert.match(JSON.stringify(await answering), '"accepted":true')
    const none = await verbs['migrate']?.answer({ ...toRack1, request: 'm3', vm: 'web3' })
    assert.match(JSON.stringify(none), 'UnknownGuest')
  }))

/** web1 is being moved by m1, and web2 was found on rack3: the coordinator hears of both when it catches up. */
async function lagging(work: (verbs: Verbs, catchUp: () => void) => Promise<void>): Promise<void> {
  let catchUp = () => {}
  let lags: Promise<void> = Promise.resolve()
  const logs = (log: Log): Log => ({
    ...log,
    async *follow(range) {
      for await (const entry of log.follow(range)) {
        await lags
        yield entry
      }
    },
  })
  await withFleet(['rack1', 'rack2'], { logs }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    lags = new Promise((resolve) => {
      catchUp = resolve
    })
    const { position: after = 0 } = (await fleet.log.last(decisions('web1'))) ?? {}
    await fleet.log.append(requested({ after }))
    const { needs } = fleet.coordinator().fleet().guests.get('web1')?.seenOn['rack1'] ?? {}
    assert.ok(needs)
    await fleet.log.append(hostReported('rack3', [{ vm: 'web2', state: 'running', needs }]))
    await work(verbsOf(fleet.coordinator()), catchUp)
  })
}

test.run()

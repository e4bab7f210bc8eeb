import { verbsOf } from '@ferry/coordinator/api'
import type { Log } from '@ferry/events/log'
import { decisions } from '@ferry/events/subjects'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { requested } from '../events/examples.ts'
import { withFleet } from '../fleet-in-process.ts'

/** What a coordinator is asked, and another one has just recorded. */
const test = suite('a coordinator that lags behind the log')

test('looks there before it says that it knows no such migration', async () => {
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
    const { status } = verbsOf(fleet.coordinator())
    const answering = status?.answer({ migration: 'm1' })
    catchUp()
    assert.match(JSON.stringify(await answering), '"phase":"queued"')
    assert.match(JSON.stringify(await status?.answer({ migration: 'm2' })), 'UnknownMigration')
  })
})

test.run()

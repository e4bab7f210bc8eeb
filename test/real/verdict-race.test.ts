import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readTimeline } from '@ferry/coordinator/cli/explain'
import { systemClock } from '@ferry/events/clock'
import { verdictOn } from '@ferry/events/verdict'
import { smallGuest } from '../guest/boot-sector.ts'
import { until } from '../until.ts'
import { withLab } from './lab.ts'

const test = suite('a cancel at the moment of switchover')

const ROUNDS = 30
/** Fired so long after the pause, spread over the time that the verdict usually takes. */
const LATEST_MS = 200

test(`${ROUNDS} times: exactly one guest, and the log, both hosts and the post-mortem agree where`, () =>
  withLab({ hosts: ['rack1', 'rack2'], driver: 'qemu' }, async (lab) => {
    await lab.defineGuest('web1', { program: smallGuest, memoryMiB: 64 })
    await lab.start('web1', 'rack1')
    let home = 'rack1'
    const outcomes = { completed: 0, abandoned: 0 }
    for (let round = 1; round <= ROUNDS; round++) {
      const migration = `race-${round}`
      const target = home === 'rack1' ? 'rack2' : 'rack1'
      const paused = lab.event(`${migration} to pause`, ({ type }) => type === 'SourcePaused')
      // Its memory was just looked at, so that the fleet may be told of a pause; asking again is asking once.
      const wish = { request: migration, vm: 'web1', target, policy: { attempts: 1 } }
      await until(`${migration} to be accepted`, async () => (await lab.migrate(wish)).accepted)
      await paused
      await systemClock.sleep((round / ROUNDS) * LATEST_MS)
      await lab.cancel(migration)

      const { phase } = await lab.ended(migration)
      assert.ok(phase === 'completed' || phase === 'abandoned', phase)
      outcomes[phase] += 1
      const there = phase === 'completed' ? target : home
      const verdict = await verdictOn(lab.connection.log, { target, migration, attempt: 1 })
      assert.is(verdict?.type, phase === 'completed' ? 'Committed' : 'Cancelled')
      const timeline = await readTimeline(lab.connection, migration)
      assert.is(timeline.phase, phase)
      assert.is(timeline.attempts[0]?.verdict?.type, verdict?.type)

      await until(`only ${there} to report the guest`, async () => {
        const guest = (await lab.fleet()).guests.find(({ vm }) => vm === 'web1')
        const copies = guest?.copies.map(({ host, state }) => `${host} ${state}`) ?? []
        return copies.join() === `${there} running`
      })
      assert.is((await lab.qemus()).length, 1)
      assert.ok((await lab.onlyRunning()).folder.includes(`/${there}/`))
      assert.is((await lab.memory('web1', smallGuest)).fault, undefined)
      home = there
    }
    console.log(`  ${outcomes.completed} were committed, ${outcomes.abandoned} cancelled`)
  }))

test.run()

import { cp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { busyGuest } from '../guest/boot-sector.ts'
import { until } from '../until.ts'
import { withLab } from './lab.ts'
import type { Lab } from './lab.ts'

const test = suite('nats-server with a store that was put back')

const isRunning = ({ status }: { status: string }) => status === 'running'

/** Looks from outside, all the time, whether two copies run at once. */
function watchingForTwo(lab: Lab) {
  const over = new AbortController()
  let most = 0
  const watching = (async () => {
    while (!over.signal.aborted) most = Math.max(most, (await lab.qemus()).filter(isRunning).length)
  })()
  return async () => {
    over.abort()
    await watching
    return most
  }
}

test('in the middle of a switchover: nobody starts a second copy, and ferry recover ends it', () =>
  withLab({ hosts: ['rack1', 'rack2'], driver: 'qemu', isCuttable: true }, async (lab) => {
    await lab.defineGuest('web1', { program: busyGuest, memoryMiB: 256 })
    await lab.start('web1', 'rack1')
    const store = join(lab.folder, 'log', lab.cluster.names[0] ?? '', 'jetstream')
    const copy = join(lab.folder, 'copy')
    const most = watchingForTwo(lab)

    // The copy is taken while memory is copied. Then all goes on, through Committed and TargetRunning.
    // Slow enough for a copy to be taken in the first round, and content with the downtime that this costs.
    const policy = { bandwidthBytesPerSecond: 8_000_000, downtimeMs: 20_000 }
    const asked = await lab.migrate({ request: 'm1', vm: 'web1', target: 'rack2', policy })
    assert.ok(asked.accepted, JSON.stringify(asked))
    await until('the image to flow', () => lab.link('rack2').passedBytes() > 1_000_000)
    const running = lab.event('TargetRunning', ({ type }) => type === 'TargetRunning')
    await lab.stopLog('SIGKILL')
    await cp(store, copy, { recursive: true })
    await lab.startLog()
    await running
    await lab.stopLog('SIGKILL')
    await rm(store, { recursive: true })
    await cp(copy, store, { recursive: true })
    // The coordinator comes back without any memory: what it is told by the hosts has to be enough.
    await lab.coordinator.end('SIGKILL')
    await rm(join(lab.folder, 'c1.watermark'), { force: true })
    await lab.startLog()
    lab.coordinator.start()

    await until('somebody to notice', async () => {
      const { stdout } = await lab.ferry('doctor', '--fleet')
      return stdout.includes('LogBehind') && stdout.includes('rack2')
    })
    const refused = await lab.migrate({ request: 'm2', vm: 'web1', target: 'rack1' })
    assert.not.ok(refused.accepted)
    const status = await lab.status('m1')
    assert.is(status.verdict, undefined)

    const shown = await lab.ferry('doctor', '--fleet')
    assert.is(shown.code, 1)
    console.log(shown.stdout)
    let said = ''
    await until(
      'the recovery',
      async () => {
        const answer = await lab.ferry('recover', '--by', 'lab', '--evidence', 'both looked at')
        said = answer.stdout + answer.stderr
        return answer.code === 0
      },
      90_000,
    )
    console.log(said)
    assert.is((await lab.ended('m1')).phase, 'completed')
    await until('one copy', async () => (await lab.qemus()).length === 1)
    assert.ok((await lab.onlyRunning()).folder.includes('/rack2/'))
    assert.is(await most(), 1)
    const memory = await lab.memory('web1', busyGuest)
    assert.is(memory.fault, undefined)

    const back = await lab.migrate({ request: 'm3', vm: 'web1', target: 'rack1' })
    assert.ok(back.accepted, JSON.stringify(back))
    assert.is((await lab.ended('m3')).phase, 'completed')
    const later = await lab.memory('web1', busyGuest)
    assert.is(later.fault, undefined)
    assert.ok(later.sweeps > memory.sweeps)
    assert.is((await lab.ferry('doctor', '--fleet')).stdout.trim(), 'Log and world agree.')
  }))

test.run()

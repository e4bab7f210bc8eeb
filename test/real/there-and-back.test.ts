import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { busyGuest } from '../guest/boot-sector.ts'
import { withLab } from './lab.ts'

const test = suite('a real guest')

test('moves there and back five times, and every page of its memory is right each time', () =>
  withLab({ hosts: ['rack1', 'rack2'], driver: 'qemu' }, async (lab) => {
    await lab.defineGuest('web1', { program: busyGuest, memoryMiB: 256 })
    await lab.start('web1', 'rack1')
    let sweeps = 0
    for (let move = 1; move <= 10; move++) {
      const target = move % 2 === 1 ? 'rack2' : 'rack1'
      const answer = await lab.migrate({ request: `move-${move}`, vm: 'web1', target })
      assert.ok(answer.accepted, JSON.stringify(answer))
      assert.is((await lab.ended(`move-${move}`)).phase, 'completed')
      const { folder } = await lab.onlyRunning()
      assert.ok(folder.includes(`/${target}/`), folder)
      assert.is((await lab.qemus()).length, 1)
      const memory = await lab.memory('web1', busyGuest)
      assert.is(memory.fault, undefined)
      assert.ok(memory.sweeps > sweeps, `${memory.sweeps} sweeps, after ${sweeps}`)
      sweeps = memory.sweeps
    }
  }))

test.run()

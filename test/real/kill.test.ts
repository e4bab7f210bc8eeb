import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Event } from '@ferry/schemas/event'
import { busyGuest } from '../guest/boot-sector.ts'
import { until } from '../until.ts'
import { openLab } from './lab.ts'
import type { Lab } from './lab.ts'

const test = suite('kill -9')

/** The moment of each phase at which the blow falls: as soon as this stands in the log. */
const moments: { readonly [phase: string]: Event['type'] } = {
  performing: 'RoundPassed',
  switching: 'SourcePaused',
  confirming: 'TargetRunning',
}
const victims = ['the source agent', 'the target agent', 'the coordinator'] as const

let lab: Lab
let home = 'rack1'
let sweeps = 0
let number = 0

test.before(async () => {
  lab = await openLab({ hosts: ['rack1', 'rack2'], driver: 'qemu' })
  await lab.defineGuest('web1', { program: busyGuest, memoryMiB: 256 })
  await lab.start('web1', home)
})
test.after(async () => lab.close())

for (const victim of victims)
  for (const [phase, moment] of Object.entries(moments))
    test(`of ${victim} while ${phase}: the migration ends, and one whole guest runs`, async () => {
      number += 1
      const [request, source] = [`m${number}`, home]
      const target = source === 'rack1' ? 'rack2' : 'rack1'
      const process = {
        'the source agent': lab.agent(source),
        'the target agent': lab.agent(target),
        'the coordinator': lab.coordinator,
      }[victim]

      const reached = lab.event(`${request} ${phase}`, ({ type }) => type === moment)
      const answer = await lab.migrate({ request, vm: 'web1', target })
      assert.ok(answer.accepted, JSON.stringify(answer))
      await reached
      await process.end('SIGKILL')
      process.start()

      const { phase: end, attempt } = await lab.ended(request)
      home = end === 'completed' ? target : source
      await until('the world to agree with the log', async () => {
        const qemus = await lab.qemus()
        return qemus.length === 1 && qemus[0]?.status === 'running'
      })
      const { folder } = await lab.onlyRunning()
      assert.ok(folder.includes(`/${home}/`), `${end}, and it runs in ${folder}`)
      const memory = await lab.memory('web1', busyGuest)
      assert.is(memory.fault, undefined)
      assert.ok(memory.sweeps > sweeps)
      sweeps = memory.sweeps
      console.log(`  ${victim} while ${phase}: ${end} in attempt ${attempt}`)
    })

test.run()

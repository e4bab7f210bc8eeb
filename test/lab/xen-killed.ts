import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Event } from '@ferry/schemas/event'
import { ENDED_MS, other, patient, withXenFleet } from './xen-fleet.ts'
import type { Rack, Victim, XenFleet } from './xen-fleet.ts'
import type { XenTool } from './xen-hosts.ts'

/** Who is killed with SIGKILL, as soon as the log says a word. */
export type Killing = {
  readonly who: readonly Victim[]
  readonly of: 'source' | 'target'
  readonly at: Event['type']
  /** The guest arrives in this attempt, or in a later one: on hosts that are so slow an attempt may fail by itself. */
  readonly from: 1 | 2
}

/** One guest is sent to and fro on the same two hosts, and somebody is killed on every way. */
export function killings(name: string, all: readonly Killing[], tool: XenTool = 'xl'): void {
  const test = suite(name)
  const story = async (fleet: XenFleet) => {
    await fleet.start('web1', 'small')
    let target: Rack = 'rack1'
    for (const [nth, each] of all.entries()) {
      target = other(target)
      const began = performance.now()
      await killed(`m${nth + 1}`, each, target, fleet)
      const seconds = Math.round((performance.now() - began) / 1000)
      console.log(
        `${each.who.join(' and ')} of the ${each.of} killed at ${each.at}: there after ${seconds} s`,
      )
    }
  }
  test(`${all.length} times somebody is killed, and one guest runs in the end`, () =>
    withXenFleet(story, tool))
  test.run()
}

async function killed(
  request: string,
  { who, of, at, from }: Killing,
  target: Rack,
  fleet: XenFleet,
): Promise<void> {
  const { lab, startAgent, kill, move, ended, onlyOn } = fleet
  const rack = of === 'target' ? target : other(target)
  const isIt = (event: Event) =>
    event.type === at && 'migration' in event && event.migration === request
  const said = lab.event(at, isIt, ENDED_MS)
  await move(request, 'web1', target, patient)
  await said
  await kill(rack, 'web1', who)
  if (who.includes('agent')) await startAgent(rack)
  const { phase, attempt } = await ended(request)
  assert.is(phase, 'completed')
  assert.ok((attempt ?? 0) >= from, `it arrived in attempt ${attempt}`)
  await onlyOn(target, 'web1')
}

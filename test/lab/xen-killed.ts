import * as assert from 'uvu/assert'
import type { Event } from '@ferry/schemas/event'
import { ENDED_MS, other, patient } from './xen-fleet.ts'
import type { Rack, Victim, XenFleet, XenStory } from './xen-fleet.ts'

/** Who is killed with SIGKILL, as soon as the log says a word. */
export type Killing = {
  readonly who: readonly Victim[]
  readonly of: 'source' | 'target'
  readonly at: Event['type']
}

/** What is done to a guest on one way. On hosts that are so slow an attempt may fail by itself. */
export type Way = { readonly killed: readonly Killing[]; readonly arrivesFrom: 1 | 2 }

/** One guest is sent to and fro while it runs, and somebody is killed on every way. */
export const killings = (what: string, ways: readonly Way[]): XenStory => ({
  title: `${what} arrives though ${ways.flatMap(({ killed }) => killed).length} times somebody is killed, and every number is counted once`,
  tell: async (fleet, vm) => {
    await fleet.start(vm, 'small')
    let target: Rack = 'rack1'
    for (const [nth, way] of ways.entries()) {
      target = other(target)
      const began = performance.now()
      await goes({ request: `${vm}-m${nth + 1}`, vm, target }, way, fleet)
      const seconds = Math.round((performance.now() - began) / 1000)
      const said = way.killed.map(({ who, of, at }) => `${who.join(' and ')} of the ${of} at ${at}`)
      console.log(`killed: ${said.join(', ')}; there after ${seconds} s`)
    }
    await fleet.countedOnce(vm, ways.length)
  },
})

/** What is said last before an agent has to begin, prepare, perform, finish and confirm. */
const phases = [
  'Admitted',
  'MigrationBegun',
  'RoundPassed',
  'SourcePaused',
  'TargetRunning',
] as const

/** In two moves each of the two agents once in every phase. */
export const agentsInEachPhase: readonly Way[] = (['source', 'target'] as const).map((first) => ({
  arrivesFrom: 1,
  killed: phases.map((at, nth) => ({
    who: ['agent'],
    of: nth % 2 === 0 ? first : first === 'source' ? 'target' : 'source',
    at,
  })),
}))

async function goes(
  { request, vm, target }: { readonly request: string; readonly vm: string; readonly target: Rack },
  { killed, arrivesFrom }: Way,
  { lab, startAgent, kill, move, ended, onlyOn }: XenFleet,
): Promise<void> {
  const heard = killed.map(({ at }) =>
    lab.event(
      at,
      (event) => event.type === at && 'migration' in event && event.migration === request,
      ENDED_MS,
    ),
  )
  // Each is waited for in its turn, and may have failed by then.
  for (const each of heard) each.catch(() => {})
  const strikes = (async () => {
    for (const [nth, { who, of }] of killed.entries()) {
      await heard[nth]
      const rack = of === 'target' ? target : other(target)
      await kill(rack, vm, who)
      if (who.includes('agent')) await startAgent(rack)
    }
  })()
  await Promise.all([strikes, move(request, vm, target, patient)])
  const { phase, attempt } = await ended(request)
  assert.is(phase, 'completed')
  assert.ok((attempt ?? 0) >= arrivesFrom, `it arrived in attempt ${attempt}`)
  await onlyOn(target, vm)
}

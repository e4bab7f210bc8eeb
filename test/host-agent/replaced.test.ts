import type { Driver } from '@ferry/host-agent/driver'
import type { Migration } from '@ferry/events/migration'
import type { PhaseName } from '@ferry/events/phases'
import { causeSentence, failureSentence } from '@ferry/events/sentences'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { places, withFleet } from '../fleet-in-process.ts'
import type { FleetInProcess } from '../fleet-in-process.ts'
import { until } from '../until.ts'

/**
 * An agent that knows nothing but its host's name and the log: on a new machine without guests, or where only its own
 * memory was lost. What was sealed for the key that the host had before, it cannot open.
 */
const test = suite('a host that comes back without its memory')

const two = ['rack1', 'rack2']

type Call =
  | 'begin'
  | 'prepare'
  | 'perform'
  | 'receive'
  | 'activate'
  | 'release'
  | 'resume'
  | 'clear'

/** The host's first such call stands still, before it has done anything or behind it, until it is let go. */
function standsStill(host: string, call: Call, when: 'before' | 'after') {
  let [isReached, isFirst] = [false, true]
  let letGo = () => {}
  const free = new Promise<void>((resolve) => {
    letGo = resolve
  })
  const stand = async () => {
    isReached = true
    await free
  }
  const drivers = (driver: Driver, its: string): Driver => ({
    ...driver,
    [call]: async (...words: unknown[]) => {
      const act = (): unknown => Reflect.apply(driver[call], driver, words)
      if (its !== host || !isFirst) return act()
      isFirst = false
      if (when === 'before') await stand()
      const answer = await act()
      if (when === 'after') await stand()
      return answer
    },
  })
  return { drivers, letGo, reached: () => until(`${call} to be reached`, () => isReached) }
}

const story = (
  [held, call, when]: readonly [host: string, call: Call, when: 'before' | 'after'],
  work: (fleet: FleetInProcess, still: ReturnType<typeof standsStill>) => Promise<void>,
): Promise<void> => {
  const still = standsStill(held, call, when)
  return withFleet(two, { drivers: still.drivers, rules: { doubtMs: 1000 } }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    await still.reached()
    await work(fleet, still)
  })
}

const outcome = ({ phase, attempt, end }: Migration, fleet: FleetInProcess): string[] => [
  `${phase} in attempt ${attempt.number}`,
  ...(end?.guestLost === true ? ['the guest is lost'] : []),
  ...places(fleet),
]

const arrives = ['completed in attempt 1', 'rack2 running']
const arrivesLater = ['completed in attempt 2', 'rack2 running']
const isLost = ['abandoned in attempt 1', 'the guest is lost']

/** Which host comes back, where it stands then, and what becomes of the migration: on a new machine, or with its guests. */
const rows: [
  phase: PhaseName,
  role: 'source' | 'target',
  at: readonly [host: string, call: Call, when: 'before' | 'after'],
  bare: string[],
  withGuests: string[],
][] = [
  ['beginning', 'source', ['rack1', 'begin', 'before'], isLost, arrives],
  ['preparing', 'source', ['rack2', 'prepare', 'before'], isLost, arrivesLater],
  ['preparing', 'target', ['rack2', 'prepare', 'before'], arrivesLater, arrivesLater],
  ['performing', 'source', ['rack1', 'perform', 'before'], isLost, arrivesLater],
  ['performing', 'target', ['rack2', 'receive', 'before'], arrivesLater, arrivesLater],
  ['switching', 'source', ['rack2', 'receive', 'after'], arrives, arrives],
  ['switching', 'target', ['rack2', 'receive', 'after'], arrivesLater, arrivesLater],
  ['activating', 'source', ['rack2', 'activate', 'after'], arrives, arrives],
  ['confirming', 'source', ['rack1', 'release', 'before'], arrives, arrives],
]
for (const [phase, role, at, bare, withGuests] of rows)
  for (const isBare of [true, false]) {
    const expected = isBare ? bare : withGuests
    const how = isBare ? 'on a new machine' : 'with its guests'
    test(`the ${role}, ${how}, while ${phase}: ${expected.join(', ')}`, () =>
      story(at, async (fleet, { letGo }) => {
        const host = role === 'source' ? 'rack1' : 'rack2'
        await fleet.hosts.get(host)?.replaceMachine({ isBare })
        if (host !== at[0]) letGo()
        assert.equal(outcome(await fleet.ended('m1'), fleet), expected)
      }))
  }

test('the target, on a new machine, behind the verdict: nobody guesses, and a person who insists answers', () =>
  story(['rack2', 'activate', 'before'], async (fleet) => {
    await fleet.hosts.get('rack2')?.replaceMachine({ isBare: true })
    const { attempt } = await fleet.when('m1', ({ phase }) => phase === 'inDoubt', 'to be in doubt')
    assert.match(
      attempt.doubt?.question ?? '',
      /no copy of it.*resolve m1 --fenced rack2.*--insist/,
    )
    assert.equal(places(fleet), ['rack1 sent'])
    const refused = await fleet.resolve({ migration: 'm1', fenced: 'rack2' })
    assert.is(refused.accepted ? '' : refused.refusal.type, 'HostAlive')
    assert.ok((await fleet.resolve({ migration: 'm1', fenced: 'rack2', insist: true })).accepted)
    assert.equal(outcome(await fleet.ended('m1'), fleet), [
      'abandoned in attempt 1',
      'rack1 running',
    ])
    // And rack2 is a host as any other again.
    await fleet.migrate({ request: 'm2', vm: 'web1', target: 'rack2' })
    assert.equal(outcome(await fleet.ended('m2'), fleet), arrives)
  }))

test('the target, with its guests, behind the verdict: it starts the copy, as the log says', () =>
  story(['rack2', 'activate', 'before'], async (fleet) => {
    await fleet.hosts.get('rack2')?.replaceMachine({ isBare: false })
    assert.equal(outcome(await fleet.ended('m1'), fleet), arrives)
  }))

for (const [role, call, isBare, expected] of [
  ['source', 'resume', true, isLost],
  ['source', 'resume', false, ['abandoned in attempt 1', 'rack1 running']],
  ['target', 'clear', true, ['abandoned in attempt 1', 'rack1 running']],
  ['target', 'clear', false, ['abandoned in attempt 1', 'rack1 running']],
] as const)
  test(`the ${role} while cancelling, ${isBare ? 'on a new machine' : 'with its guests'}: ${expected.join(', ')}`, async () => {
    const host = role === 'source' ? 'rack1' : 'rack2'
    const still = standsStill(host, call, 'before')
    const rules = { settleMs: 20_000 }
    await withFleet(two, { drivers: still.drivers, rules, vm: slowVm }, async (fleet) => {
      await fleet.start('web1', 'rack1')
      await fleet.migrate({ request: 'm1', vm: 'web1', target: 'rack2', policy: neverDone })
      const isCopying = ({ phase }: Migration) => phase === 'performing'
      await fleet.when('m1', isCopying, 'to copy')
      assert.ok((await fleet.cancel('m1')).accepted)
      await still.reached()
      await fleet.hosts.get(host)?.replaceMachine({ isBare })
      assert.equal(outcome(await fleet.ended('m1'), fleet), expected)
    })
  })

/** Takes a second or so to copy, and a policy under which it is never done. */
const slowVm = { memoryMiB: 16, pagesPerSecond: 20_000 }
const neverDone = { bandwidthBytesPerSecond: 8_000_000, downtimeMs: 1 }

const nobodyMoves = { limits: { fleet: 0, perSource: 1, perTarget: 1 } }

test('the source, on a new machine, while queued: it does not wait for a slot that is of no use', () =>
  withFleet(two, { rules: nobodyMoves }, async (fleet) => {
    await fleet.start('web1', 'rack1')
    await fleet.migrate({ request: 'm1', vm: 'web1' })
    await fleet.hosts.get('rack1')?.replaceMachine({ isBare: true })
    const migration = await fleet.ended('m1')
    assert.equal(outcome(migration, fleet), isLost)
    assert.is(
      migration.end?.cause && causeSentence(migration.end.cause),
      'rack1 refused: web1 is not here any more',
    )
  }))

test('both at once, with their guests: each seals for the key that the other one has now', () =>
  story(['rack1', 'begin', 'before'], async (fleet) => {
    for (const host of two) await fleet.hosts.get(host)?.replaceMachine({ isBare: false })
    assert.is((await fleet.ended('m1')).phase, 'completed')
    assert.equal(places(fleet), ['rack2 running'])
  }))

test('why an attempt was given up is said: its key is not the one that the host has now', () =>
  story(['rack2', 'receive', 'after'], async (fleet) => {
    await fleet.hosts.get('rack2')?.replaceMachine({ isBare: true })
    await fleet.ended('m1')
    const causes: string[] = []
    for await (const { message } of fleet.log.read({ after: 0 }))
      if (message.is === 'event' && message.event.type === 'ReceiveFailed')
        causes.push(failureSentence(message.event.data.failure))
    assert.equal(causes, [
      "the transfer's key is not sealed for the key that rack2 has now, or not by who says so",
    ])
  }))

test.run()

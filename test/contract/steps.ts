import type { Event, EventOf } from '@ferry/schemas/event'
import { defaultRules } from '@ferry/coordinator/decide/world'
import { isEvent } from '@ferry/events/entry'
import type { Delivery } from '@ferry/events/log'
import { askKey, hostOf, isCommand } from '@ferry/events/migration'
import type { AskKey } from '@ferry/events/migration'
import { isFactName, phases } from '@ferry/events/phases'
import type { Ask, CommandName, PhaseName } from '@ferry/events/phases'
import { commands } from '@ferry/events/subjects'
import type { Policy } from '@ferry/schemas/policy'
import type { Cause } from '@ferry/schemas/refusal'
import { CopyFailed, NeverStarted } from '@ferry/host-agent/driver'
import type { Driver } from '@ferry/host-agent/driver'
import { roleOf } from '@ferry/host-agent/journal'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { withFleet } from '../fleet-in-process.ts'
import type { FleetInProcess, FleetOptions } from '../fleet-in-process.ts'
import { until } from '../until.ts'

/**
 * Every step twice, failing, refused, and followed by a crash: one loop over the phase table, for each driver. A step is
 * a command that a phase asks for. It has five spots at which something can go wrong:
 *
 *     asking ──► asked ──► before ──► after ──► answered
 *     the command is      the driver's call     the fact is in the log,
 *     about to be         is about to be        the command is not
 *     written; it is      made; it was          acknowledged
 *
 * After each case the migration has ended where the table says, the one host that the fold names runs the guest in the
 * world, whole, and nothing was said twice.
 */
export type Hypervisors = {
  /** A driver as a new agent opens it, on the host `source` or `target`. */
  readonly open: (host: string) => Driver
  /** Every copy that there is, looked at from outside. */
  readonly copies: () => Promise<SeenCopy[]>
  readonly close: () => Promise<void>
}

export type SeenCopy = {
  readonly host: string
  readonly isRunning: boolean
  readonly memory: () => Promise<{ readonly fault: string | undefined; readonly sweeps: number }>
}

export type StepsOptions = {
  /** Hosts on which `guest` can be started, for one case. */
  readonly open: () => Promise<Hypervisors>
  readonly atOnce: number
  readonly patienceMs: number
  /** How the guest is moved; absent: as nothing was said. */
  readonly policy?: Partial<Policy>
}

type Call = Exclude<
  keyof Driver,
  | 'hypervisor'
  | 'definitions'
  | 'copiesDisks'
  | 'sendsDirectly'
  | 'copiesAfterwards'
  | 'goOn'
  | 'inspect'
  | 'foresee'
  | 'start'
  | 'onChange'
  | 'close'
>

const spots = ['asking', 'asked', 'before', 'after', 'answered'] as const
type Spot = (typeof spots)[number]

type Stage = { readonly call: Call; readonly spots: readonly Spot[] }

/** What each command makes the hypervisor do in each phase, and which spots lie in it. */
const stages: { readonly [Phase in PhaseName]?: { readonly [Key in AskKey]?: Stage } } = {
  beginning: { 'Begin.source': { call: 'begin', spots } },
  preparing: { 'Prepare.target': { call: 'prepare', spots } },
  performing: {
    'Perform.source': { call: 'perform', spots: ['asking', 'asked', 'before'] },
    'Finish.target': { call: 'receive', spots: ['asking', 'asked', 'before'] },
  },
  switching: {
    'Perform.source': { call: 'perform', spots: ['after', 'answered'] },
    'Finish.target': { call: 'receive', spots: ['after'] },
  },
  activating: { 'Finish.target': { call: 'activate', spots: ['before', 'after', 'answered'] } },
  inDoubt: { 'Finish.target': { call: 'activate', spots: ['before', 'after', 'answered'] } },
  confirming: { 'Confirm.source': { call: 'release', spots } },
  cancelling: {
    'Cancel.source': { call: 'resume', spots },
    'Cancel.target': { call: 'clear', spots },
  },
}

type Ending = {
  readonly phase: 'completed' | 'abandoned'
  /** In which of these it may end. */
  readonly attempts: readonly number[]
  readonly guestLost?: boolean
}
const arrived: Ending = { phase: 'completed', attempts: [1] }
const arrivedLater: Ending = { phase: 'completed', attempts: [2] }
/** Whether the source had connected by then, nobody knows. */
const arrivedAnyway: Ending = { phase: 'completed', attempts: [1, 2] }
const stayed: Ending = { phase: 'abandoned', attempts: [1] }

type Refusal = { readonly instead: (driver: Driver) => Partial<Driver>; readonly leads: Ending }

const failure = { type: 'HypervisorFailed', message: 'not today' } as const

/** What each call may answer beside "done", and where that leads. */
const refusals: Readonly<Record<Call, Refusal | 'none'>> = {
  begin: { instead: () => ({ begin: async () => ({ refusal: failure }) }), leads: stayed },
  prepare: { instead: () => ({ prepare: async () => failure }), leads: stayed },
  perform: {
    instead: () => ({ perform: () => Promise.reject(new CopyFailed(failure)) }),
    leads: arrivedLater,
  },
  receive: {
    instead: () => ({ receive: () => Promise.reject(new CopyFailed(failure)) }),
    leads: arrivedLater,
  },
  activate: {
    instead: () => ({ activate: () => Promise.reject(new NeverStarted(failure)) }),
    leads: arrivedLater,
  },
  release: 'none',
  resume: {
    // Somebody ended it: there is no guest any more.
    instead: (driver) => ({ resume: (vm) => driver.release(vm).then(() => driver.resume(vm)) }),
    leads: { ...stayed, guestLost: true },
  },
  clear: 'none',
}

type Case = {
  readonly phase: PhaseName
  readonly ask: Ask
  readonly call: Call
  readonly spot: Spot
  readonly way: WayName
}

const ways = {
  'comes twice': { at: ['before', 'after'], act: comeTwice },
  fails: {
    at: ['before', 'after'],
    act: () => Promise.reject(new Error('a hypervisor out of its mind')),
  },
  'is refused': { at: ['before'], act: async () => {} },
  'is followed by the death of the agent': {
    at: ['before', 'after', 'answered'],
    act: ({ fleet, the }) => {
      fleet.hosts.get(the.ask.of)?.crashAgent()
      return never
    },
  },
  'is followed by the death of the coordinator': {
    at: spots,
    act: async ({ fleet, the }) => {
      await fleet.crashCoordinator()
      if (the.spot === 'asking' || the.spot === 'asked') await never
    },
  },
} as const satisfies Record<string, Way>
type WayName = keyof typeof ways

type Way = { readonly at: readonly Spot[]; readonly act: (scene: Scene) => Promise<void> }

/** What somebody waits for who has died. */
const never = new Promise<never>(() => {})

export function everyStep(name: string, options: StepsOptions): void {
  const test = suite(`every step of a migration with the driver ${name}`)
  const { cases, missing } = casesOf()
  const ended: Promise<Error | undefined>[] = []

  test.before(() => {
    for (const [nth, each] of cases.entries()) {
      const before = ended[nth - options.atOnce] ?? Promise.resolve(undefined)
      const run = before.then(() => play(each, options))
      ended.push(run.then(() => undefined, asError))
    }
  })
  test('has its cases, and every call of a driver is in one', () => {
    assert.equal(missing, [])
    assert.equal(new Set(cases.map(({ call }) => call)), new Set(Object.keys(refusals)))
  })
  for (const [nth, each] of cases.entries())
    test(titleOf(each), async () => {
      const error = await ended[nth]
      if (error !== undefined) throw error
    })
  test.run()
}

function casesOf() {
  const cases: Case[] = []
  const missing: string[] = []
  for (const [phase, { asks }] of Object.entries(phases) as [PhaseName, typeof phases.queued][])
    for (const ask of asks) {
      const stage = stages[phase]?.[askKey(ask)]
      if (stage === undefined) {
        missing.push(`${ask.command} of the ${ask.of} while ${phase}`)
        continue
      }
      for (const [way, { at }] of Object.entries(ways) as [WayName, Way][])
        for (const spot of stage.spots) {
          const isPossible = way !== 'is refused' || refusals[stage.call] !== 'none'
          if (at.includes(spot) && isPossible)
            cases.push({ phase, ask, call: stage.call, spot, way })
        }
    }
  return { cases, missing }
}

const titleOf = ({ phase, ask, call, spot, way }: Case): string => {
  const where = spot === 'before' || spot === 'after' ? `${spot} ${call}` : spot
  return `${phase}: ${ask.command} of the ${ask.of} ${way} (${where})`
}

function endingOf({ phase, call, spot, way }: Case, isDirect: boolean): Ending {
  const refusal = refusals[call]
  if (way === 'is refused' && refusal !== 'none') return refusal.leads
  if (phase === 'cancelling') return stayed
  const isCopying = call === 'perform' || call === 'receive'
  if (!isCopying || spot === 'answered' || !breaksTheStream.has(way)) return arrived
  // What was on its way between the two is lost with either of them, and is sent anew; unless it passed neither.
  if (spot === 'after') return isDirect && call === 'receive' ? arrived : arrivedLater
  return call === 'receive' ? arrivedAnyway : arrived
}

const breaksTheStream = new Set<WayName>(['fails', 'is followed by the death of the agent'])

const GUEST = 'guest'
/** Under this a copy is never done, so that it can be cancelled. */
const neverDone = { bandwidthBytesPerSecond: 1_000_000, downtimeMs: 1 }

/** One case on its stage. */
type Scene = {
  readonly the: Case
  readonly fleet: FleetInProcess
  readonly delivered: ReadonlySet<number>
}

async function play(the: Case, { open, patienceMs, policy: wished }: StepsOptions): Promise<void> {
  const { phase, ask, call, way } = the
  const { spots: own = [] } = stages[phase]?.[askKey(ask)] ?? {}
  const hypervisors = await open()
  const calls: Call[] = []
  const said: string[] = []
  const delivered = new Set<number>()
  const done = new Set<number>()
  let fleet: FleetInProcess | undefined
  let hasHappened = false

  const at = async (spot: Spot): Promise<void> => {
    if (fleet === undefined || hasHappened || !own.includes(spot)) return
    if (spot === 'before' || spot === 'after')
      await fleet.when('m1', (migration) => migration.phase === phase, `to be ${phase}`)
    if (spot !== the.spot || hasHappened) return
    hasHappened = true
    await ways[way].act({ the, fleet, delivered })
  }
  const drivers = (driver: Driver, host: string): Driver =>
    interposed(driver, async (name, work) => {
      calls.push(name)
      if (name !== call || host !== ask.of) return work(driver)
      const isFirst = !hasHappened
      await at('before')
      const refusal = way === 'is refused' && isFirst ? refusals[name] : 'none'
      const answer = await work(
        refusal === 'none' ? driver : { ...driver, ...refusal.instead(driver) },
      )
      await at('after')
      return answer
    })
  const isTheCommand = (event: Event): event is EventOf<CommandName> =>
    isCommand(event) && event.type === ask.command && roleOf(event) === ask.of
  const logs: FleetOptions['logs'] = (log, writer) => ({
    ...log,
    append: async (event, options) => {
      if (isTheCommand(event)) await at('asking')
      const stored = await log.append(event, options)
      if (isTheCommand(event)) await at('asked')
      // Rounds are a series: two that passed in one moment carry the same number, and stand in the log as one.
      if (isFactName(event.type) && event.type !== 'RoundPassed') said.push(event.id)
      if ('host' in writer && ask.answers.some((answer) => answer === event.type))
        await at('answered')
      return stored
    },
    deliveries: (receiver) =>
      way === 'comes twice'
        ? twice(log.deliveries(receiver), delivered, done)
        : log.deliveries(receiver),
  })
  const rules = { doubtMs: phase === 'inDoubt' ? 200 : defaultRules.doubtMs }

  try {
    const names = ['source', 'target']
    await withFleet(
      names,
      { open: hypervisors.open, drivers, logs, rules, patienceMs },
      async (opened) => {
        fleet = opened
        await fleet.start(GUEST, 'source')
        const policy = { ...wished, ...(phase === 'cancelling' ? neverDone : {}) }
        await fleet.migrate({ request: 'm1', vm: GUEST, target: 'target', policy })
        if (phase === 'cancelling') {
          const isCopying = () => calls.includes('perform') && calls.includes('receive')
          await until('the copy to begin', isCopying, patienceMs)
          await fleet.cancel('m1')
        }
        await fleet.ended('m1')
        assert.ok(hasHappened || way === 'is refused', 'nothing happened')
        if (way === 'comes twice') {
          const late = await ordered({ the, fleet }, 'late')
          await until('the late command to be put away', () => done.has(late), patienceMs)
          assert.equal(calls, [...new Set(calls)], 'a call was made twice')
        }
        const ending = endingOf(the, wished?.directConnections !== undefined)
        await checkEnd(the, ending, fleet, hypervisors, said)
      },
    )
  } finally {
    await hypervisors.close()
  }
}

async function checkEnd(
  the: Case,
  { phase, attempts, guestLost = false }: Ending,
  fleet: FleetInProcess,
  { copies }: Hypervisors,
  said: readonly string[],
): Promise<void> {
  const migration = await fleet.ended('m1')
  const { attempt, end } = migration
  assert.equal([migration.phase, end?.guestLost, end?.openDuties], [phase, guestLost, []])
  const causes: Cause[] = []
  for await (const entry of fleet.log.read({ after: 0 }))
    if (isEvent(entry) && entry.message.event.type === 'Retried')
      causes.push(entry.message.event.data.cause)
  // A machine that stands still for a moment makes the gate send the guest home (rule 5): that is no step's doing.
  const byGate = causes.filter(isByGate).length
  assert.ok(
    attempts.includes(attempt.number - byGate),
    `it took ${attempt.number} attempts: ${JSON.stringify(causes)}`,
  )
  // I1, I2: what the fold says is what the world is.
  const runsOn = hostOf(migration, phases[phase].runsOn as 'source' | 'target')
  const seen = await copies()
  assert.equal(
    seen.map(({ host, isRunning }) => ({ host, isRunning })),
    guestLost ? [] : [{ host: runsOn, isRunning: true }],
  )
  for (const { memory } of seen) await goesOnWhole(memory)

  assert.equal(said, [...new Set(said)], 'a fact was said twice')
  const inLog: string[] = []
  for await (const entry of fleet.log.read({ after: 0 }))
    if (isEvent(entry) && isFactName(entry.message.event.type)) inLog.push(entry.message.event.type)
  if (attempt.number > 1) return
  const answers = inLog.filter((name) => the.ask.answers.some((answer) => answer === name))
  assert.is(answers.length, 1, `the answers are ${answers.join()}`)
}

const isByGate = (cause: Cause): boolean =>
  cause.type === 'Failed' && cause.failure.type === 'LogSilent'

async function goesOnWhole(memory: SeenCopy['memory']): Promise<void> {
  const before = await memory()
  assert.is(before.fault, undefined)
  await until('the guest to go on', async () => (await memory()).sweeps > before.sweeps)
  assert.is((await memory()).fault, undefined)
}

/** The coordinator asks again, and what it asked before comes again as well. */
async function comeTwice({ the, fleet, delivered }: Scene): Promise<void> {
  const again = await ordered({ the, fleet }, 'again')
  await until('the command to come again', () => delivered.has(again))
}

/** The last command of the step once more, with another id. @returns its position. */
async function ordered(
  { the, fleet }: Pick<Scene, 'the' | 'fleet'>,
  mark: string,
): Promise<number> {
  const { command, of } = the.ask
  const entry = await fleet.log.last(commands(of, GUEST, command))
  if (entry === undefined || !isEvent(entry)) throw new Error(`${command} was never asked`)
  const { event } = entry.message
  return (await fleet.log.append({ ...event, id: `${event.id}.${mark}` })).position
}

/** Every delivery comes twice at once; then both acknowledgements get lost, and it comes once more. */
async function* twice(
  deliveries: AsyncIterable<Delivery>,
  delivered: Set<number>,
  done: Set<number>,
): AsyncGenerator<Delivery, void, undefined> {
  for await (const delivery of deliveries) {
    const { position } = delivery.entry
    if (delivered.has(position)) {
      yield {
        ...delivery,
        done: () => {
          delivery.done()
          done.add(position)
        },
      }
      continue
    }
    const unheard = { ...delivery, done: () => delivery.again(1) }
    yield unheard
    yield unheard
    delivered.add(position)
  }
}

type Around = <T>(call: Call, work: (driver: Driver) => Promise<T>) => Promise<T>

const interposed = (driver: Driver, around: Around): Driver => ({
  ...driver,
  begin: (vm, leave) => around('begin', (it) => it.begin(vm, leave)),
  prepare: (landing) => around('prepare', (it) => it.prepare(landing)),
  perform: (vm, order) => around('perform', (it) => it.perform(vm, order)),
  receive: (vm, order) => around('receive', (it) => it.receive(vm, order)),
  activate: (vm, rest) => around('activate', (it) => it.activate(vm, rest)),
  release: (vm) => around('release', (it) => it.release(vm)),
  resume: (vm) => around('resume', (it) => it.resume(vm)),
  clear: (vm) => around('clear', (it) => it.clear(vm)),
})

const asError = (error: unknown): Error =>
  error instanceof Error ? error : new Error(String(error))

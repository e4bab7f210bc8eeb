import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { VERSION } from '@ferry/coordinator/version'
import type { MemoryLog } from '@ferry/events/log/in-memory'
import { decisions, verdicts } from '@ferry/events/subjects'
import { CopyFailed } from '@ferry/host-agent/driver'
import type { Driver } from '@ferry/host-agent/driver'
import { encode } from '@ferry/schemas/cloud-event'
import { withFleet } from '../fleet-in-process.ts'
import { until } from '../until.ts'
import { KEPT, keptLog, outcomeOf, requiredFields } from './kept.ts'
import type { Stored } from './kept.ts'

/**
 * Records what this release writes, for all that come after it: once, when it is released. Coordinator and agents are the
 * shipped ones, the guests are simulated. One migration arrives, one is cancelled, one is tried again, one is refused,
 * one is in doubt and fenced, one is in doubt and answered, and some of it is void.
 */
const two = ['rack1', 'rack2']
const rules = { doubtMs: 300, settleMs: 500 }
const vm = { memoryMiB: 2, pagesPerSecond: 2000 }
const neverDone = { bandwidthBytesPerSecond: 4_000_000, downtimeMs: 1 }
const JUNK = '["no event, and on the subject of a fact"]'

/** What the hypervisors do next, when it is not what they are told. */
const fate = {
  failsToCopy: false,
  refuses: false,
  activates: (): Promise<unknown> | undefined => undefined,
}
const drivers = (driver: Driver): Driver => ({
  ...driver,
  prepare: async (landing) =>
    fate.refuses ? { type: 'DiskMissing', path: '/shared/web1.qcow2' } : driver.prepare(landing),
  perform: async (vm, order) => {
    if (!fate.failsToCopy) return driver.perform(vm, order)
    fate.failsToCopy = false
    throw new CopyFailed({ type: 'HypervisorFailed', message: 'no luck' })
  },
  activate: async (vm) => {
    const running = await driver.activate(vm)
    await fate.activates()
    return running
  },
})

let stored: Stored[] = []
await withFleet(two, { drivers, rules, vm }, async (fleet) => {
  const moved = async (request: string, target: string, policy = {}) => {
    await fleet.migrate({ request, vm: 'web1', target, policy })
    return fleet.ended(request)
  }
  await fleet.start('web1', 'rack1')
  await moved('arrives', 'rack2')

  await fleet.migrate({ request: 'cancelled', vm: 'web1', target: 'rack1', policy: neverDone })
  await fleet.when('cancelled', ({ attempt }) => attempt.facts.RoundPassed !== undefined, 'to copy')
  await fleet.cancel('cancelled')
  await fleet.ended('cancelled')
  // What is said a second time, or by nobody, is void for everybody.
  await repeat(fleet.log, decisions('web1'))
  await repeat(fleet.log, verdicts('rack1', 'cancelled', 1))
  fleet.log.inject('ferry.fact.rack1.web1.SourcePaused', JUNK)

  fate.failsToCopy = true
  await moved('tried-again', 'rack1')
  fate.refuses = true
  await moved('refused', 'rack2')
  fate.refuses = false

  let die = () => {}
  const death = new Promise((_, reject) => {
    die = () => reject(new Error('the agent dies here'))
  })
  fate.activates = () => death
  await fleet.migrate({ request: 'fenced', vm: 'web1', target: 'rack2' })
  await fleet.when('fenced', ({ phase }) => phase === 'inDoubt', 'to be in doubt')
  const stopped = fleet.hosts.get('rack2')?.stopAgent()
  die()
  await stopped
  await fleet.resolve({ migration: 'fenced', fenced: 'rack2', insist: true })
  await fleet.ended('fenced')
  fate.activates = () => undefined
  fleet.hosts.get('rack2')?.startAgent()
  const isStale = () => fleet.coordinator().fleet().guests.get('web1')?.stale.rack2 !== undefined
  await until('the stale copy to be gone', () => !isStale())
  await until('rack2 to be heard', () => fleet.coordinator().world().alive.has('rack2'))

  let answer = () => {}
  fate.activates = () => new Promise<void>((resolve) => (answer = resolve))
  await fleet.migrate({ request: 'answered', vm: 'web1', target: 'rack2' })
  await fleet.when('answered', ({ phase }) => phase === 'inDoubt', 'to be in doubt')
  answer()
  await fleet.ended('answered')
  stored = await allOf(fleet.log)
})

const folder = join(KEPT, VERSION)
await mkdir(folder, { recursive: true })
await writeFile(
  join(folder, 'log.ndjson'),
  stored.map((line) => `${JSON.stringify(line)}\n`).join(''),
)
await writeFile(join(folder, 'required.txt'), `${requiredFields().join('\n')}\n`)
const outcome = outcomeOf(await keptLog(VERSION))
await writeFile(join(folder, 'outcome.txt'), outcome)
process.stdout.write(outcome)

async function repeat(log: MemoryLog, subject: string): Promise<void> {
  const entry = await log.next(subject, 0)
  if (entry?.message.is !== 'event') throw new Error(`nothing stands on ${subject}`)
  log.inject(subject, encode(entry.message.event))
}

async function allOf(log: MemoryLog): Promise<Stored[]> {
  const all: Stored[] = []
  for await (const { position, storedAt, subject, message } of log.read({ after: 0 }))
    if (!subject.startsWith('ferry.progress.'))
      all.push({
        position,
        storedAt,
        subject,
        body: message.is === 'event' ? encode(message.event) : JUNK,
      })
  return all
}

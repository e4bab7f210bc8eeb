import { readTimeline } from '@ferry/coordinator/cli/explain'
import { basename, dirname } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import type { Event } from '@ferry/schemas/event'
import type { Cause } from '@ferry/schemas/refusal'
import { until } from '../../until.ts'
import type { Lab } from '../lab.ts'
import { readMemory } from '../outside.ts'
import { backAfterOf, blowOf, mayEndGuest, reach } from './cells.ts'
import type { Cell, Heal } from './cells.ts'
import { isStep, writerOf } from './record.ts'
import type { Said } from './record.ts'
import { program, setStage } from './stage.ts'
import type { Stage } from './stage.ts'

/** What became of one cell of the matrix. */
export type Result = {
  readonly outcome: string
  /** The longest time in which the guest ran nowhere, by QEMU's own times. */
  readonly downtimeMs?: number
  /** From the blow to the next command, decision or verdict that was not on its way by then. */
  readonly nextStepMs?: number
  readonly nextStep?: string
  /** The blow fell in the phase that was meant. */
  readonly isHit: boolean
  /** What is not as it must be. */
  readonly broken: readonly string[]
}

export type RunOptions = {
  /** How long a victim that was not killed stays away. */
  readonly awayMs?: number
  /** The event after which a victim that was killed comes back; absent: it comes back at once. */
  readonly backAfter?: Event['type']
}

/** Heartbeats count for 6 s, the leader's lease for 1.5 s, a delivery for 2 s. */
export const LONGER_THAN_EVERY_LEASE_MS = 8000

/** Runs one cell in a lab, and leaves it calm. Throws when that did not work: then the lab is of no more use. */
export async function runCell(
  lab: Lab,
  cell: Cell,
  name: string,
  options: RunOptions = {},
): Promise<Result> {
  await untilCalm(lab)
  const stage = await setStage(lab, name)
  try {
    const hurtAt = await hurt(stage, cell, options)
    await lab.ended(stage.migration, CELL_MS)
    return await look(stage, cell, hurtAt)
  } finally {
    stage.telling.close()
    stage.pauses.close()
    await clearAway(stage)
  }
}

const CELL_MS = 90_000

/** @returns the moment of the blow. */
async function hurt(stage: Stage, cell: Cell, options: RunOptions): Promise<number> {
  const { event, before, onTheWay, isSlow = false } = reach[cell.phase]
  const { telling } = stage
  before?.(stage)
  let heal: Heal = () => {}
  try {
    await stage.migrate(isSlow)
    await onTheWay?.(stage)
    await telling.first(event)
    const hurtAt = systemClock.now()
    heal = await blowOf(cell)(stage)
    stage.letGo()
    const { awayMs = LONGER_THAN_EVERY_LEASE_MS, backAfter = backAfterOf(cell) } = options
    if (cell.way === 'stopped' || cell.way === 'cut off') await systemClock.sleep(awayMs)
    else if (backAfter !== undefined) await telling.first(backAfter)
    return hurtAt
  } finally {
    stage.letGo()
    await heal()
  }
}

/** The log, the world and the guest's memory, as they are when all is over. */
async function look(stage: Stage, cell: Cell, hurtAt: number): Promise<Result> {
  const { lab, vm, migration, source, target, telling, pauses } = stage
  // In the log itself: a coordinator that was away may answer with what it last knew.
  const { phase, end, attempts } = await readTimeline(lab.connection, migration)
  const broken = [...pauses.overlaps(), ...doubled(telling.said)]
  const downtimeMs = pauses.longestMs()
  pauses.close()

  const home = phase === 'completed' ? target : source
  const isEnded = mayEndGuest(cell)
  const expected = isEnded ? '' : `${home} running`
  if (end?.guestLost !== (isEnded && phase === 'abandoned'))
    broken.push(`the log says that the guest is ${end?.guestLost ? '' : 'not '}lost`)
  await agree(
    `the world to be: ${expected || 'no guest'}`,
    broken,
    async () => (await copiesOf(stage)).join() === expected,
  )
  await agree(`the fleet to know: ${expected || 'no guest'}`, broken, async () => {
    const guest = (await lab.fleet()).guests.find((each) => each.vm === vm)
    const known = guest?.copies.map(({ host, state }) => `${host} ${state}`) ?? []
    return known.join() === expected
  })
  if (broken.length === 0 && !isEnded) {
    const { fault, sweeps } = await readMemory(stage.folderOn(home), program)
    if (fault !== undefined) broken.push(`its memory: ${fault}`)
    if (sweeps <= stage.sweepsBefore) broken.push(`it made no sweep since ${stage.sweepsBefore}`)
  }

  const next = telling.said.find((said) => isStep(said) && !wasOnItsWay(said, cell, stage, hurtAt))
  const spans = attempts.flatMap((each) => each.spans)
  const whys = attempts.slice(0, -1).flatMap(({ verdict }) => verdict?.cause ?? [])
  const times =
    attempts.length === 1 ? '' : `, attempt ${attempts.length} (${whys.map(whyOf).join(', ')})`
  return {
    outcome: isEnded ? `${phase}; the guest ended with its QEMU` : `${phase}${times}`,
    ...(downtimeMs === undefined ? {} : { downtimeMs }),
    ...(next === undefined
      ? {}
      : { nextStepMs: next.storedAt - hurtAt, nextStep: next.event.type }),
    isHit: spans.some(
      (span) =>
        span.phase === cell.phase &&
        span.from.storedAt <= hurtAt &&
        hurtAt <= span.from.storedAt + span.ms,
    ),
    broken,
  }
}

const whyOf = (cause: Cause): string =>
  'failure' in cause ? `${cause.failure.type} at the ${cause.host}` : cause.type

/** A victim's last words may be stored after the blow. */
function wasOnItsWay(said: Said, { victim }: Cell, { leader }: Stage, hurtAt: number): boolean {
  if (said.storedAt <= hurtAt) return true
  const isVictims =
    victim === 'all coordinators' || (victim === 'the leader' && writerOf(said) === leader)
  return isVictims && said.storedAt - hurtAt < LAST_WORDS_MS
}

const LAST_WORDS_MS = 100

/** I7: an event stands in the log once, and a host is not asked the same again before its patience is over. */
function doubled(said: readonly Said[]): string[] {
  const ids = said.map(({ event }) => event.id)
  return ids
    .filter((id, nth) => ids.indexOf(id) !== nth)
    .map((id) => `${id} stands in the log twice`)
}

/** What runs of this guest, or is there at all, by QEMU's own word. */
async function copiesOf({ lab, vm }: Stage): Promise<string[]> {
  const copies = (await lab.qemus()).filter(({ folder }) => basename(folder) === vm)
  return copies.map(({ folder, status }) => `${basename(dirname(dirname(folder)))} ${status}`)
}

async function agree(what: string, broken: string[], isIt: () => Promise<boolean>) {
  await until(what, isIt).catch((error: unknown) => broken.push(String(error)))
}

async function untilCalm(lab: Lab): Promise<void> {
  await until('everybody to be there', async () => {
    const { hosts, guests, leader } = await lab.fleet()
    return (
      leader !== undefined &&
      hosts.every(({ isAlive }) => isAlive) &&
      guests.every(({ copies }) => copies.length === 0)
    )
  })
}

async function clearAway({ lab }: Stage): Promise<void> {
  for (const { pid } of await lab.qemus()) process.kill(pid, 'SIGKILL')
  await until('no guest to be left', async () => (await lab.qemus()).length === 0)
}

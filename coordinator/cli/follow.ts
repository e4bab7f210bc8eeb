import { Type } from 'typebox'
import type { CopyProgress } from '@ferry/schemas/policy'
import { Refused } from '@ferry/schemas/request'
import { StatusView } from '@ferry/schemas/view'
import type { MigrationView } from '@ferry/schemas/view'
import { systemClock } from '@ferry/events/clock'
import type { Connection } from '@ferry/events/log/connect'
import { isEnded } from '@ferry/events/phases'
import { Exit, complain, exits, request } from './context.ts'
import { duration, rate, size, timeOfDay } from './words.ts'

const StatusReply = Type.Union([StatusView, Refused])

const LOOK_EVERY_MS = 150
const PLAIN_EVERY_MS = 1000

/** Shows how a migration goes until it has ended: one live line on a terminal, plain lines elsewhere. */
export async function follow(
  connection: Connection,
  id: string,
  { isQuiet }: { isQuiet: boolean },
): Promise<MigrationView> {
  const stop = new AbortController()
  let progress: CopyProgress | undefined
  const show = isQuiet ? undefined : process.stderr.isTTY ? liveLine() : plainLines()
  let listening: Promise<void> | undefined
  try {
    for (;;) {
      const answer = await request(connection, 'status', { migration: id }, StatusReply)
      if ('accepted' in answer) throw new Exit(exits.refused, answer.sentence)
      const { migration } = answer
      listening ??= (async () => {
        for await (const sample of connection.progressOf(migration.vm, stop.signal))
          progress = sample
      })()
      show?.update(migration, migration.phase === 'performing' ? progress : undefined)
      if (isEnded(migration.phase)) {
        show?.end()
        return migration
      }
      await systemClock.sleep(LOOK_EVERY_MS)
    }
  } finally {
    stop.abort()
    await listening
  }
}

type Show = {
  readonly update: (migration: MigrationView, progress?: CopyProgress) => void
  readonly end: () => void
}

function liveLine(): Show {
  const write = (text: string) =>
    process.stderr.write(`\r\u001b[2K${text.slice(0, (process.stderr.columns ?? 100) - 1)}`)
  return {
    update: (migration, progress) =>
      write(
        `${headOf(migration)} ${bar(progress)} ${progress === undefined ? migration.meaning : numbers(progress)}`,
      ),
    end: () => write(''),
  }
}

function plainLines(): Show {
  let phase = ''
  let saidAt = 0
  return {
    update: (migration, progress) => {
      const now = systemClock.elapsed()
      const isNew = phase !== `${migration.attempt} ${migration.phase}`
      if (!isNew && (progress === undefined || now - saidAt < PLAIN_EVERY_MS)) return
      phase = `${migration.attempt} ${migration.phase}`
      saidAt = now
      complain(
        `${timeOfDay(Date.now())} ${headOf(migration)}: ${progress === undefined ? migration.meaning : numbers(progress)}`,
      )
      if (isNew && migration.waitsFor !== undefined) complain(`             ${migration.waitsFor}`)
    },
    end: () => {},
  }
}

const headOf = ({ vm, phase, attempt, target }: MigrationView): string =>
  `${vm}${target === undefined ? '' : ` → ${target}`} ${phase}${attempt > 1 ? ` (attempt ${attempt})` : ''}`

const numbers = (progress: CopyProgress): string =>
  [
    `round ${progress.round}`,
    `${size(progress.transferredBytes)} sent`,
    `${size(progress.remainingBytes)} left`,
    rate(progress.bandwidthBytesPerSecond),
    `dirty ${rate(progress.dirtyBytesPerSecond)}`,
    `expected downtime ${duration(progress.expectedDowntimeMs)}`,
    ...(progress.throttlePercent > 0 ? [`slowed by ${progress.throttlePercent} %`] : []),
  ].join(', ')

const BAR_CELLS = 20

/** What is left of the whole; in later rounds it fills and empties with what got dirty. */
function bar(progress?: CopyProgress): string {
  if (progress === undefined || progress.totalBytes === 0) return ''
  const full = Math.round(
    BAR_CELLS * (1 - Math.min(1, progress.remainingBytes / progress.totalBytes)),
  )
  return `[${'█'.repeat(full)}${'·'.repeat(BAR_CELLS - full)}]`
}

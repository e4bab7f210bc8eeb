import { join } from 'node:path'
import { smallGuest } from '../../guest/boot-sector.ts'
import { pidIn } from '../../kill.ts'
import { until } from '../../until.ts'
import type { Lab } from '../lab.ts'
import type { Link, Way } from '../link.ts'
import { readSweeps } from '../outside.ts'
import { watchPauses } from './pauses.ts'
import type { Pauses } from './pauses.ts'
import { recordOf } from './record.ts'
import type { Telling } from './record.ts'

/** One guest that works on rack1 of a lab, and a migration to rack2 that has not been asked for yet. */
export type Stage = {
  readonly lab: Lab
  readonly vm: string
  readonly migration: string
  readonly source: string
  readonly target: string
  /** Who leads as it begins. */
  readonly leader: string
  readonly sweepsBefore: number
  readonly pauses: Pauses
  readonly telling: Telling
  readonly migrate: (isSlow: boolean) => Promise<void>
  readonly cancel: () => Promise<void>
  /** Holds back what passes a link. @returns how to let go; `letGo` lets go of everything. */
  readonly hold: (link: Link, way: Way) => () => void
  readonly letGo: () => void
  readonly imageFlows: () => Promise<void>
  readonly qemuOn: (host: string) => Promise<number>
  /** The process that moves the guest there. */
  readonly moverOn: (host: string) => Promise<number>
  readonly folderOn: (host: string) => string
}

export const program = smallGuest
const SWEPT_BYTES = program.toByte - program.fromByte

/** Switched over after the first round, in which the guest's memory takes two seconds. */
const SLOWLY = { bandwidthBytesPerSecond: SWEPT_BYTES / 2, downtimeMs: 4000 }
const QUICKLY = { downtimeMs: 1000 }

export async function setStage(lab: Lab, name: string): Promise<Stage> {
  const [vm, migration, source, target] = [`guest-${name}`, `move-${name}`, 'rack1', 'rack2']
  const leader = await lab.leader()
  await lab.defineGuest(vm, { program, memoryMiB: 64 })
  await lab.start(vm, source)
  const folderOn = (host: string) => join(lab.folder, host, 'guests', vm)
  let sweepsBefore = 0
  await until('the guest to work', async () => {
    sweepsBefore = await readSweeps(folderOn(source))
    return sweepsBefore > 0
  })

  const pauses = watchPauses()
  if (!(await pauses.watch(source, folderOn(source))))
    throw new Error('the guest has no monitor for operators')
  const telling = await recordOf(lab.connection, migration, ({ event }) => {
    if (event.type === 'TargetPrepared') void pauses.watch(target, folderOn(target))
  })
  const holds = new Set<() => void>()
  const { passedBytes } = lab.link(target)
  const before = passedBytes()
  return {
    lab,
    vm,
    migration,
    source,
    target,
    leader,
    sweepsBefore,
    pauses,
    telling,
    migrate: async (isSlow) => {
      const policy = isSlow ? SLOWLY : QUICKLY
      // Any coordinator answers, and one that has just come back may not have folded the guest's start yet.
      const wish = { request: migration, vm, target, policy }
      await until(`${migration} to be accepted`, async () => (await lab.migrate(wish)).accepted)
    },
    cancel: async () => {
      await until(
        `${migration} to be cancelled`,
        async () => (await lab.cancel(migration)).accepted,
      )
    },
    hold: (link, way) => {
      const heal = link.silence(way)
      holds.add(heal)
      return heal
    },
    letGo: () => holds.forEach((heal) => heal()),
    imageFlows: () => until('the image to flow', () => passedBytes() > before + 100_000),
    moverOn: (host) => pidIn(join(lab.folder, host, 'movers', vm, 'mover.pid')),
    qemuOn: (host) => pidIn(join(folderOn(host), 'qemu.pid')),
    folderOn,
  }
}

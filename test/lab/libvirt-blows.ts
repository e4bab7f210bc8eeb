import { join } from 'node:path'
import type { Event } from '@ferry/schemas/event'
import { recordOf } from '../real/chaos/record.ts'
import type { Telling } from '../real/chaos/record.ts'
import type { Link, Way } from '../real/link.ts'
import { killIn } from '../kill.ts'
import { until } from '../until.ts'
import { other } from './libvirt-stage.ts'
import type { Rack, Stage } from './libvirt-stage.ts'

/**
 * Who is killed, and behind which fact, as two tables. Some moments last two milliseconds: what would end them is held
 * back by a link until the blow has fallen.
 */
export type Scene = Stage & {
  readonly source: Rack
  readonly target: Rack
  readonly telling: Telling
  /** Until `letGo`, nothing passes that link that way. */
  readonly hold: (link: Link, way: Way) => () => void
  readonly letGo: () => void
  readonly imageFlows: () => Promise<void>
}

export type Moment = 'prepared' | 'performed' | 'committed' | 'running' | 'released'
export type Victim =
  | 'source agent'
  | 'target agent'
  | 'source mover'
  | 'target mover'
  | 'source libvirtd'
  | 'target libvirtd'

/** @param passedBytes how much of an image, and of those before it, has gone where it goes. */
export async function sceneOf(
  stage: Stage,
  request: string,
  target: Rack,
  passedBytes: () => number | Promise<number> = stage.lab.link(target).passedBytes,
): Promise<Scene> {
  const holds = new Set<() => void>()
  const before = await passedBytes()
  return {
    ...stage,
    source: other(target),
    target,
    telling: await recordOf(stage.lab.connection, request, () => {}),
    hold: (link, way) => {
      const heal = link.silence(way)
      holds.add(heal)
      return heal
    },
    letGo: () => holds.forEach((heal) => heal()),
    imageFlows: () =>
      until('the image to flow', async () => (await passedBytes()) > before + ENOUGH_BYTES),
  }
}

const ENOUGH_BYTES = 200_000

/** Behind each moment the fact stands in the log, and nobody has acted on it yet. */
export const moments: Readonly<
  Record<
    Moment,
    { readonly fact: Event['type']; readonly hold: (scene: Scene) => Promise<unknown> }
  >
> = {
  prepared: {
    fact: 'TargetPrepared',
    hold: async ({ telling, hold, lab, source }) => {
      await telling.first('MigrationBegun')
      hold(lab.logLink(source), 'out')
    },
  },
  performed: {
    fact: 'Performed',
    hold: async ({ imageFlows, hold, lab, target }) => {
      await imageFlows()
      hold(lab.logLink(target), 'in')
    },
  },
  committed: {
    fact: 'Committed',
    hold: async ({ imageFlows, hold, lab, target }) => {
      await imageFlows()
      hold(lab.logLink(target), 'out')
    },
  },
  running: {
    fact: 'TargetRunning',
    hold: async ({ imageFlows, telling, hold, lab, source, target }) => {
      await imageFlows()
      // Before it has sent everything a source that hears nothing would send its guest home.
      const hear = hold(lab.logLink(target), 'out')
      await telling.first('Performed')
      hold(lab.logLink(source), 'out')
      hear()
    },
  },
  released: { fact: 'SourceReleased', hold: async () => {} },
}

const killMover = ({ lab }: Scene, rack: Rack): Promise<void> =>
  killIn(join(lab.folder, rack, 'movers', 'web1', 'mover.pid'))

type Blow = {
  readonly strike: (scene: Scene) => Promise<void>
  /** Where there is one to be killed; absent: always. */
  readonly moments?: readonly Moment[]
}

export const victims: Readonly<Record<Victim, Blow>> = {
  'source agent': { strike: ({ lab, source }) => replaced(lab.agent(source)) },
  'target agent': { strike: ({ lab, target }) => replaced(lab.agent(target)) },
  // It has ended before the first fact behind which it could be killed.
  'source mover': { strike: (scene) => killMover(scene, scene.source), moments: [] },
  'target mover': {
    strike: (scene) => killMover(scene, scene.target),
    moments: ['prepared', 'performed', 'committed'],
  },
  'source libvirtd': { strike: ({ hosts, source }) => libvirtdKilled(hosts, source) },
  'target libvirtd': { strike: ({ hosts, target }) => libvirtdKilled(hosts, target) },
}

async function replaced(agent: ReturnType<Scene['lab']['agent']>): Promise<void> {
  await agent.end('SIGKILL')
  agent.start()
}

async function libvirtdKilled(hosts: Scene['hosts'], rack: Rack): Promise<void> {
  await hosts.end(rack, 'SIGKILL')
  await hosts.start(rack)
}

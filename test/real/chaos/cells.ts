import type { PhaseName } from '@ferry/events/phases'
import type { Event } from '@ferry/schemas/event'
import type { LabProcess } from '../lab.ts'
import type { Stage } from './stage.ts'

/**
 * The matrix: who is hurt, in which phase, in which way. Every table that has to do with chaos is read from here.
 *
 * A phase may last two milliseconds. So what would end it is held back by a link until the blow has fallen: `reach`
 * says how a phase is reached and held. `nobody` is what the holding alone costs.
 */
export type Cell = { readonly victim: Victim; readonly phase: HurtPhase; readonly way: Way }

export type HurtPhase = Extract<
  PhaseName,
  | 'beginning'
  | 'preparing'
  | 'performing'
  | 'switching'
  | 'activating'
  | 'confirming'
  | 'cancelling'
>
export type Way = 'killed' | 'upgraded' | 'stopped' | 'cut off' | 'left alone'
export type Victim =
  | 'nobody'
  | 'the leader'
  | 'all coordinators'
  | 'source agent'
  | 'target agent'
  | 'both agents'
  | 'source mover'
  | 'target mover'
  | 'source QEMU'
  | 'target QEMU'
  | 'transfer'
  | 'nats-server'

/** Strikes now. @returns what heals it; nothing does where a guest's QEMU was killed. */
export type Blow = (stage: Stage) => Promise<Heal>
export type Heal = () => void | Promise<void>

type Reach = {
  /** Stands in the log as soon as the phase is there. */
  readonly event: Event['type']
  /** What is done before the migration is asked for. */
  readonly before?: (stage: Stage) => unknown
  /** What is done on the way there. */
  readonly onTheWay?: (stage: Stage) => Promise<unknown>
  /** The copy takes two seconds, so that it does not end by itself. */
  readonly isSlow?: boolean
}

/** The image is held back from the source's pause on, until the log knows of the pause. @returns how it goes on. */
async function holdSwitchover(stage: Stage): Promise<() => void> {
  await stage.pauses.stopped
  const goOn = stage.hold(stage.lab.link(stage.target), 'in')
  await stage.telling.first('SourcePaused')
  return goOn
}

/** The same, and then the target hears nothing any more: what it says is stored, and what follows from it waits. */
async function thenDeaf(stage: Stage): Promise<() => void> {
  const goOn = await holdSwitchover(stage)
  const hear = stage.hold(stage.lab.logLink(stage.target), 'out')
  goOn()
  return hear
}

/** The source is deaf from when it has sent everything: before that, a silent log would send its guest home. */
async function thenDeafSource(stage: Stage): Promise<void> {
  const hear = await thenDeaf(stage)
  await stage.telling.first('Performed')
  stage.hold(stage.lab.logLink(stage.source), 'out')
  hear()
}

export const reach: Readonly<Record<HurtPhase, Reach>> = {
  beginning: {
    event: 'Begin',
    before: (stage) => stage.hold(stage.lab.logLink(stage.source), 'out'),
  },
  preparing: {
    event: 'Prepare',
    before: (stage) => stage.hold(stage.lab.logLink(stage.target), 'out'),
  },
  performing: { event: 'Perform', onTheWay: (stage) => stage.imageFlows(), isSlow: true },
  switching: { event: 'SourcePaused', onTheWay: holdSwitchover },
  activating: { event: 'Committed', onTheWay: thenDeaf },
  confirming: { event: 'TargetRunning', onTheWay: thenDeafSource },
  cancelling: {
    event: 'Cancelled',
    isSlow: true,
    onTheWay: async (stage) => {
      await stage.imageFlows()
      stage.hold(stage.lab.logLink(stage.source), 'out')
      stage.hold(stage.lab.logLink(stage.target), 'out')
      await stage.cancel()
    },
  },
}

type Ways = { readonly [W in Way]?: Blow }

/** How each victim is hurt, and in which phases it is there to be hurt. */
const victims: Readonly<
  Record<
    Victim,
    {
      readonly phases: readonly HurtPhase[]
      readonly ways: Ways
      /** The event after which it comes back when it was killed; absent: at once. */
      readonly backAfter?: Event['type']
    }
  >
> = {
  nobody: { phases: keysOf(reach), ways: { 'left alone': async () => () => {} } },
  'the leader': {
    phases: keysOf(reach),
    ways: processWays(
      ({ lab, leader }) => named(lab.coordinators, leader),
      ({ leader }) => [leader],
    ),
  },
  'all coordinators': {
    phases: ['performing', 'switching'],
    backAfter: 'TargetRunning',
    ways: {
      killed: async ({ lab }) => {
        const all = [...lab.coordinators.values()]
        await Promise.all(all.map((each) => each.end('SIGKILL')))
        return () => all.forEach((each) => each.start())
      },
    },
  },
  'source agent': {
    phases: keysOf(reach),
    ways: {
      ...processWays(
        ({ lab, source }) => lab.agent(source),
        ({ source }) => [source],
      ),
      upgraded: replaced(({ lab, source }) => [lab.agent(source)], 'SIGTERM'),
    },
  },
  'target agent': {
    phases: keysOf(reach),
    ways: {
      ...processWays(
        ({ lab, target }) => lab.agent(target),
        ({ target }) => [target],
      ),
      upgraded: replaced(({ lab, target }) => [lab.agent(target)], 'SIGTERM'),
    },
  },
  'both agents': {
    phases: keysOf(reach),
    ways: {
      killed: replaced(
        ({ lab, source, target }) => [lab.agent(source), lab.agent(target)],
        'SIGKILL',
      ),
    },
  },
  'source mover': { phases: ['performing', 'switching'], ways: moverWays('source') },
  'target mover': {
    phases: ['performing', 'switching', 'activating'],
    ways: moverWays('target'),
  },
  'source QEMU': { phases: keysOf(reach), ways: qemuWays('source') },
  'target QEMU': {
    phases: ['performing', 'switching', 'activating', 'confirming', 'cancelling'],
    ways: qemuWays('target'),
  },
  transfer: {
    phases: ['performing', 'switching'],
    ways: {
      killed: async ({ lab, target }) => {
        lab.link(target).cut()
        return () => {}
      },
      'cut off': async ({ lab, target }) => lab.link(target).silence(),
    },
  },
  'nats-server': {
    phases: keysOf(reach),
    ways: {
      killed: async ({ lab }) => {
        await lab.stopLog('SIGKILL')
        return lab.startLog
      },
      stopped: async ({ lab }) => {
        lab.signalLog('SIGSTOP')
        return () => lab.signalLog('SIGCONT')
      },
      'cut off': async (stage) => silenceAll(stage, everybody(stage)),
    },
  },
}

export const matrix: readonly Cell[] = keysOf(victims).flatMap((victim) =>
  victims[victim].phases.flatMap((phase) =>
    keysOf(victims[victim].ways).map((way): Cell => ({ victim, phase, way })),
  ),
)

export function blowOf({ victim, phase, way }: Cell): Blow {
  const { phases, ways } = victims[victim]
  const blow = ways[way]
  if (blow === undefined || !phases.includes(phase))
    throw new Error(`${victim} cannot be ${way} while ${phase}`)
  return blow
}

export const backAfterOf = ({ victim }: Cell): Event['type'] | undefined =>
  victims[victim].backAfter

export const nameOf = ({ victim, phase, way }: Cell): string => `${phase}: ${victim} ${way}`

/** A guest ends with its QEMU when that was the only copy that could run: no other may take its place. */
export const mayEndGuest = ({ victim, phase, way }: Cell): boolean =>
  way === 'killed' &&
  ((victim === 'source QEMU' && phase !== 'activating' && phase !== 'confirming') ||
    (victim === 'target QEMU' && phase === 'confirming'))

function processWays(
  processOf: (stage: Stage) => LabProcess,
  names: (stage: Stage) => readonly string[],
): Ways {
  return {
    killed: async (stage) => {
      const process = processOf(stage)
      await process.end('SIGKILL')
      return process.start
    },
    stopped: async (stage) => {
      const process = processOf(stage)
      process.signal('SIGSTOP')
      return () => process.signal('SIGCONT')
    },
    'cut off': async (stage) => silenceAll(stage, names(stage)),
  }
}

/** Ended, and started again at once. */
function replaced(processes: (stage: Stage) => LabProcess[], signal: NodeJS.Signals): Blow {
  return async (stage) => {
    const all = processes(stage)
    await Promise.all(all.map((each) => each.end(signal)))
    return () => all.forEach((each) => each.start())
  }
}

function qemuWays(role: 'source' | 'target'): Ways {
  return pidWays((stage) => stage.qemuOn(stage[role]))
}

function moverWays(role: 'source' | 'target'): Ways {
  return pidWays((stage) => stage.moverOn(stage[role]))
}

function pidWays(pidOf: (stage: Stage) => Promise<number>): Ways {
  const strike = (signal: NodeJS.Signals) => async (stage: Stage) => {
    const pid = await pidOf(stage)
    process.kill(pid, signal)
    return pid
  }
  return {
    killed: async (stage) => {
      await strike('SIGKILL')(stage)
      return () => {}
    },
    stopped: async (stage) => {
      const pid = await strike('SIGSTOP')(stage)
      return () => {
        try {
          process.kill(pid, 'SIGCONT')
        } catch {
          // Its agent has ended it meanwhile.
        }
      }
    },
  }
}

function silenceAll({ lab }: Stage, names: readonly string[]): Heal {
  const heals = names.map((name) => lab.logLink(name).silence())
  return () => heals.forEach((heal) => heal())
}

const everybody = ({ lab, source, target }: Stage) => [source, target, ...lab.coordinators.keys()]

function named(processes: ReadonlyMap<string, LabProcess>, name: string): LabProcess {
  const process = processes.get(name)
  if (process === undefined) throw new Error(`the lab has no ${name}`)
  return process
}

function keysOf<Key extends string>(table: { readonly [K in Key]?: unknown }): Key[] {
  return Object.keys(table) as Key[]
}

import type { Fleet } from '@ferry/events/fleet'
import type { Guest } from '@ferry/events/guest'
import { targetOf } from '@ferry/events/migration'
import { isEnded, phases } from '@ferry/events/phases'
import { isLeftover, neverRan, placeOf } from './recover.ts'

/** What does not agree between the log and the world, as the hosts' inventories show it: named, with what to do. */
export type Finding = {
  readonly name: FindingName
  readonly about: string
  readonly found: string
  /** The positions of the events that it follows from. */
  readonly cites: readonly number[]
  readonly todo: string
}

type FindingName =
  | 'LogBehind'
  | 'HostSilent'
  | 'RunsTwice'
  | 'RunsNowhere'
  | 'RunsElsewhere'
  | 'Orphan'
  | 'Unresponsive'

export function findings(fleet: Fleet, alive: ReadonlySet<string>): Finding[] {
  return [
    ...Object.values(fleet.alarms.standing).map(({ who, missing, head, position }): Finding => ({
      name: 'LogBehind',
      about: who,
      found: `It saw ${missing.id} at position ${missing.position}; when it looked, the log ended at ${head} and did not hold that.`,
      cites: [position],
      todo: 'Nothing is decided or started. Compare what is below with the hosts, then `ferry recover`.',
    })),
    ...[...fleet.hosts.values()]
      .filter(({ host }) => !alive.has(host))
      .map(({ host, position }): Finding => ({
        name: 'HostSilent',
        about: host,
        found: 'It has not been heard of lately; what is known of it is its last inventory.',
        cites: [position],
        todo: 'Look at the agent there. Nothing is concluded from its silence.',
      })),
    ...[...fleet.guests.values()].flatMap((guest) =>
      rules.flatMap((rule) => {
        const found = rule(caseOf(fleet, guest))
        return found === undefined ? [] : [found]
      }),
    ),
  ]
}

type Case = {
  readonly guest: Guest
  readonly copies: readonly { readonly host: string; readonly state: string }[]
  readonly on: (...states: string[]) => string[]
  /** Under way, and not only waiting. */
  readonly moving: Guest['migration']
  readonly cites: readonly number[]
  readonly isStopped: boolean
}

function caseOf(fleet: Fleet, guest: Guest): Case {
  const { migration } = guest
  const copies = Object.entries(guest.seenOn).map(([host, { state }]) => ({ host, state }))
  const isMoving =
    migration !== undefined && !isEnded(migration.phase) && migration.phase !== 'queued'
  return {
    guest,
    copies,
    on: (...states) => copies.filter(({ state }) => states.includes(state)).map(({ host }) => host),
    moving: isMoving ? migration : undefined,
    cites: [
      ...(migration === undefined ? [] : [(migration.end ?? migration.since).position]),
      ...copies.flatMap(({ host }) => fleet.hosts.get(host)?.position ?? []),
    ],
    isStopped: Object.keys(fleet.alarms.standing).length > 0,
  }
}

type Rule = (the: Case) => Finding | undefined

const rules: readonly Rule[] = [
  ({ guest: { vm }, on, cites }) => {
    const running = on('running')
    return running.length < 2
      ? undefined
      : {
          name: 'RunsTwice',
          about: vm,
          found: `It runs on ${running.join(' and ')}.`,
          cites,
          todo: 'Which one is right? Stop the other by hand, now: both may write to the same disk.',
        }
  },
  ({ guest: { vm }, on, cites }) => {
    const hosts = on('unresponsive')
    return hosts.length === 0
      ? undefined
      : {
          name: 'Unresponsive',
          about: vm,
          found: `Its hypervisor on ${hosts.join(' and ')} does not answer; it may run or not.`,
          cites,
          todo: 'Look at that process on the host.',
        }
  },
  ({ guest, copies, on, moving, cites, isStopped }) => {
    if (copies.length === 0 && moving === undefined) return undefined
    if (on('running', 'unresponsive').length > 0) return undefined
    const stood = copies.map(({ host, state }) => `${state} on ${host}`).join(', ')
    const isPaused = moving === undefined && copies.length === 1 && on('paused').length === 1
    if (isPaused) return undefined
    const place = isStopped ? placeOf(guest.vm, guest, { without: [] }) : undefined
    const todo =
      moving !== undefined && !isStopped
        ? `${moving.id} is ${moving.phase}: ${phases[moving.phase].meaning}. It goes on by itself.`
        : place !== undefined && 'host' in place
          ? `\`ferry recover\` lets it run on on ${place.host}: the other copy was never started.`
          : `Where does it belong? ferry recover --guest ${guest.vm}=HOST, or --lost ${guest.vm}.`
    return {
      name: 'RunsNowhere',
      about: guest.vm,
      found: copies.length === 0 ? 'No host has a copy of it.' : `It is ${stood}.`,
      cites,
      todo,
    }
  },
  ({ guest: { vm }, on, moving, cites, isStopped }) => {
    const [host] = on('running')
    if (moving === undefined || host === undefined) return undefined
    const { runsOn } = phases[moving.phase]
    const target = targetOf(moving)
    const expected = runsOn === 'target' ? target : runsOn === 'source' ? moving.source : undefined
    if (host === expected || (expected === undefined && !isStopped)) return undefined
    return {
      name: 'RunsElsewhere',
      about: vm,
      found: `It runs on ${host}; the log says: ${moving.phase}, ${expected === undefined ? 'on no host' : `on ${expected}`}.`,
      cites,
      todo: isStopped
        ? `\`ferry recover\` records that it belongs to ${host}.`
        : `Nothing is started before the log agrees: ${moving.id} goes on asking.`,
    }
  },
  ({ guest: { vm }, copies, on, moving, cites, isStopped }) => {
    const running = on('running')
    const left = copies.filter(({ state }) =>
      [...(running.length > 0 ? isLeftover : neverRan)].some((each) => each === state),
    )
    if (moving !== undefined || left.length === 0) return undefined
    return {
      name: 'Orphan',
      about: vm,
      found: `${left.map(({ host, state }) => `A copy on ${host} is ${state}`).join(', ')}; no migration wants it.`,
      cites,
      todo: isStopped
        ? '`ferry recover` takes it away.'
        : 'The next migration to that host replaces one that never ran; one that was sent is ended by hand.',
    }
  },
]

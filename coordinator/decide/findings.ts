import type { Fleet } from '@ferry/events/fleet'
import { caseOf, rules } from './finding-rules.ts'

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
  | 'InDoubt'
  | 'BothPaused'
  | 'GoneWithHost'
  | 'Orphan'
  | 'UnknownCopy'
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
        const found = rule(caseOf(fleet, guest, alive))
        return found === undefined ? [] : [found]
      }),
    ),
  ]
}

import type { Fleet } from '@ferry/events/fleet'
import type { Migration } from '@ferry/events/migration'
import { targetOf } from '@ferry/events/migration'

/**
 * What a person has to answer when nothing is heard of a guest behind Committed. A target that says that it has no copy
 * has not answered: it may be another machine by now, or have lost what it knew (rule 6).
 */
export function doubtQuestion(fleet: Fleet, migration: Migration): string {
  const { id, vm, attempt } = migration
  const host = targetOf(migration) ?? ''
  const report = fleet.hosts.get(host)
  const isGone =
    report !== undefined &&
    report.position > (attempt.verdict?.position ?? 0) &&
    fleet.guests.get(vm)?.seenOn[host] === undefined
  if (attempt.facts.TargetFetching !== undefined)
    return `${vm} was started on ${host} before all of its memory was there, and the rest is not there yet${attempt.facts.TargetFetching.data.isBroken ? ': what it lacks does not come any more' : ''}. Mend the network between the hosts and have ${migration.source} send on (virsh migrate --postcopy --postcopy-resume); or give ${vm} up: nobody else has all of it. Then make sure that it runs nowhere, and say so: ferry resolve ${id} --fenced ${host}.`
  return isGone
    ? `${host} was given ${vm}, and says since position ${report.position} that it has no copy of it. Does ${vm} run on a machine that ${host} was before? Make sure that it runs nowhere, and say so: ferry resolve ${id} --fenced ${host}, with --insist while its agent is heard.`
    : `${host} was given ${vm} and does not answer. Does ${vm} run there? Bring ${host} back; or make sure that it is off, and say so: ferry resolve ${id} --fenced ${host}.`
}

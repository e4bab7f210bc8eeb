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
    return missingRest(migration, host, attempt.facts.TargetFetching.data.isBroken)
  return isGone
    ? `${host} was given ${vm}, and says since position ${report.position} that it has no copy of it. Does ${vm} run on a machine that ${host} was before? Make sure that it runs nowhere, and say so: ferry resolve ${id} --fenced ${host}, with --insist while its agent is heard.`
    : `${host} was given ${vm} and does not answer. Does ${vm} run there? Bring ${host} back; or make sure that it is off, and say so: ferry resolve ${id} --fenced ${host}.`
}

/** What an operator can do was tried: `test/hosts/libvirt-post-copy.test.ts`. */
function missingRest({ id, vm, source }: Migration, host: string, isBroken: boolean): string {
  const [what, first] = isBroken
    ? ['what it lacks does not come any more', '']
    : [
        'the rest is not there yet',
        `break it off on ${source} if it stands still (virsh domjobabort --postcopy ${vm}), `,
      ]
  return `${vm} was started on ${host} before all of its memory was there, and ${what}. Mend the network between the hosts, ${first}and send the rest from ${source} (virsh migrate --live --postcopy --postcopy-resume ${vm} qemu+ssh://${host}/system): Ferry sees it arrive. Or give ${vm} up, for nobody else has all of it: make sure that it runs nowhere, and say so: ferry resolve ${id} --fenced ${host}.`
}

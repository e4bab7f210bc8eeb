import type { Fleet } from '@ferry/events/fleet'
import { migrationOf } from '@ferry/events/fleet'
import type { Guest, Seen } from '@ferry/events/guest'
import { targetOf } from '@ferry/events/migration'
import type { Migration } from '@ferry/events/migration'
import { isEnded, phases } from '@ferry/events/phases'
import { doubtQuestion } from './doubt.ts'
import type { Finding } from './findings.ts'
import { isLeftover, neverRan, placeOf } from './recover.ts'

/** One guest: what its hosts say of it, and what the log does. */
type Case = {
  readonly fleet: Fleet
  readonly guest: Guest
  readonly vm: string
  readonly copies: readonly Copy[]
  readonly on: (...states: string[]) => string[]
  /** Under way, and not only waiting. */
  readonly moving: Guest['migration']
  readonly cites: readonly number[]
  readonly isStopped: boolean
  readonly alive: ReadonlySet<string>
}

type Copy = Pick<Seen, 'state' | 'receives'> & { readonly host: string }

export function caseOf(fleet: Fleet, guest: Guest, alive: ReadonlySet<string>): Case {
  const { vm, migration } = guest
  const copies = Object.entries(guest.seenOn).map(([host, seen]) => ({ host, ...seen }))
  const isMoving =
    migration !== undefined && !isEnded(migration.phase) && migration.phase !== 'queued'
  return {
    fleet,
    guest,
    vm,
    copies,
    on: (...states) => copies.filter(({ state }) => states.includes(state)).map(({ host }) => host),
    moving: isMoving ? migration : undefined,
    cites: [
      ...(migration === undefined ? [] : [(migration.end ?? migration.since).position]),
      ...copies.flatMap(({ host }) => fleet.hosts.get(host)?.position ?? []),
    ],
    isStopped: Object.keys(fleet.alarms.standing).length > 0,
    alive,
  }
}

type Rule = (the: Case) => Finding | undefined

const runsTwice: Rule = ({ guest, vm, on, cites, alive }) => {
  const running = on('running')
  if (running.length < 2) return undefined
  const silent = running.filter((host) => !alive.has(host))
  const stale = running.flatMap((host) => {
    const { fence } = guest.stale[host] ?? {}
    return fence === undefined ? [] : [{ host, position: fence.position }]
  })
  const lastWord = silent.length === 0 ? '' : ` Of ${list(silent)} that is the last word.`
  const behindFence = stale.map(
    ({ host, position }) =>
      `The copy on ${host} is stale, behind the fence at ${position}: its agent ends it before anything else. Make sure that ${host} is off until then.`,
  )
  return {
    name: 'RunsTwice',
    about: vm,
    found: `It runs on ${list(running)}.${lastWord}`,
    cites: [...cites, ...stale.map(({ position }) => position)],
    todo:
      behindFence.length > 0
        ? behindFence.join(' ')
        : 'Which one is right? Stop the other by hand, now: both may write to the same disk. Until then it is not moved.',
  }
}

const unresponsive: Rule = ({ vm, on, cites }) => {
  const hosts = on('unresponsive')
  const running = on('running')
  const besides = running.length === 0 ? '' : ` It runs on ${list(running)} as well.`
  return hosts.length === 0
    ? undefined
    : {
        name: 'Unresponsive',
        about: vm,
        found: `Its hypervisor on ${list(hosts)} does not answer; it may run or not.${besides}`,
        cites,
        todo: 'Look at that process on the host.',
      }
}

const inDoubt: Rule = ({ fleet, vm, on, moving, cites, isStopped }) => {
  if (moving?.phase !== 'inDoubt' || isStopped || on('running').length > 0) return undefined
  const { verdict, doubt } = moving.attempt
  return {
    name: 'InDoubt',
    about: vm,
    found: `By ${moving.id} it belongs to ${targetOf(moving)}, of which nothing is heard about it.`,
    cites: [...cites, ...[verdict, doubt].flatMap((place) => place?.position ?? [])],
    todo: doubtQuestion(fleet, moving),
  }
}

/** One that was stopped, or has ended by itself, is nobody's question; but this one left with its machine. */
const goneWithHost: Rule = ({ guest, vm, copies, moving, cites }) => {
  const { gone } = guest
  if (gone === undefined || copies.length > 0 || moving !== undefined) return undefined
  return {
    name: 'GoneWithHost',
    about: vm,
    found: `It was on ${gone.host}, which came back with another key and without it.`,
    cites: [...cites, gone.lastSeen, gone.position],
    todo: `Is the machine that had it off? Then \`ferry start ${vm} --on HOST\`.`,
  }
}

const runsNowhere: Rule = (the) => {
  const { guest, vm, copies, on, moving, cites, isStopped } = the
  if (copies.length === 0 && moving === undefined) return undefined
  if (on('running', 'unresponsive').length > 0) return undefined
  if (moving?.phase === 'inDoubt' && !isStopped) return undefined
  const isPaused = moving === undefined && copies.length === 1 && on('paused').length === 1
  if (isPaused) return undefined
  const found =
    copies.length === 0
      ? 'No host has a copy of it.'
      : `It is ${copies.map(({ host, state }) => `${state} on ${host}`).join(', ')}.`
  if (isStopped) {
    const place = placeOf(vm, guest, { without: [] })
    const todo =
      place !== undefined && 'host' in place
        ? `\`ferry recover\` lets it run on on ${place.host}: the other copy was never started.`
        : `Where does it belong? ferry recover --guest ${vm}=HOST, or --lost ${vm}.`
    return { name: 'RunsNowhere', about: vm, found, cites, todo }
  }
  if (moving !== undefined) {
    const todo = `${moving.id} is ${moving.phase}: ${phases[moving.phase].meaning}. It goes on by itself.`
    return { name: 'RunsNowhere', about: vm, found, cites, todo }
  }
  const { todo, by } = whereItBelongs(the)
  const name = copies.length > 1 ? 'BothPaused' : 'RunsNowhere'
  return { name, about: vm, found, cites: [...cites, ...by], todo }
}

/** No migration is under way, and nobody runs it: what its last one says of that. */
function whereItBelongs({ guest: { vm, migration }, copies }: Case): {
  readonly todo: string
  readonly by: readonly number[]
} {
  const owed = migration && owedBy(migration, copies)
  if (owed !== undefined) return { todo: owed, by: [] }
  const { verdict, fence } = migration?.attempt ?? {}
  const isHome = verdict?.type === 'Cancelled' || fence !== undefined
  const place = isHome ? (fence ?? verdict) : verdict
  const host = migration && (isHome ? migration.source : targetOf(migration))
  const others = copies.filter((copy) => copy.host !== host).map((copy) => copy.host)
  const end = others.length === 0 ? '' : `end the copy on ${list(others)} by hand, then `
  return place === undefined || !copies.some((copy) => copy.host === host)
    ? {
        todo: `Which copy is the guest? Nothing in the log says so. End any other by hand, then let that one run; or end all, and \`ferry start ${vm} --on HOST\`.`,
        by: [],
      }
    : {
        todo: `By position ${place.position} it belongs to ${host}: ${end}let the one there run.`,
        by: [place.position],
      }
}

/** A host that was silent when its migration ended does what it owes when its agent answers. */
function owedBy({ end }: Migration, copies: readonly Copy[]): string | undefined {
  const duties = end?.openDuties.filter(({ host }) => copies.some((copy) => copy.host === host))
  if (end === undefined || duties === undefined || duties.length === 0) return undefined
  return duties
    .map(
      ({ host, command }) =>
        `${host} owes ${command} since position ${end.position}: it settles that by itself when its agent answers.`,
    )
    .join(' ')
}

const runsElsewhere: Rule = ({ vm, on, moving, cites, isStopped }) => {
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
}

/** Copies that a migration has left, though none is under way; another one may be what is left of a log before this. */
const leftCopies = ({ copies, on, moving }: Case): readonly Copy[] =>
  moving !== undefined
    ? []
    : copies.filter(({ state }) => (on('running').length > 0 ? isLeftover : neverRan).has(state))

const orphan: Rule = (the) => {
  const { guest, vm, cites, isStopped } = the
  const left = leftCopies(the).filter((copy) => isKnown(the, copy))
  if (left.length === 0) return undefined
  const owed = guest.migration && owedBy(guest.migration, left)
  const todo = isStopped
    ? '`ferry recover` takes it away.'
    : (owed ??
      left.map((copy) => `${whoEnds(the, copy)} Until then it cannot come there.`).join(' '))
  const fences = left.flatMap(({ host }) => guest.stale[host]?.fence.position ?? [])
  return { name: 'Orphan', about: vm, found: stated(left), cites: [...cites, ...fences], todo }
}

function whoEnds({ guest }: Case, { host, receives }: Copy): string {
  const fence = guest.stale[host]?.fence
  if (fence !== undefined)
    return `${host} ends its copy, behind the fence at ${fence.position}, when its agent is back.`
  return receives === undefined
    ? `The copy on ${host} is ended by hand.`
    : `${host} clears its copy when its agent begins anew, if the verdict on ${receives.migration}.${receives.attempt} is Cancelled; else it is ended by hand.`
}

const unknownCopy: Rule = (the) => {
  const { vm, cites, isStopped } = the
  const left = leftCopies(the).filter((copy) => !isKnown(the, copy))
  if (left.length === 0) return undefined
  const marks = left.flatMap(({ receives }) => receives?.migration ?? [])
  return {
    name: 'UnknownCopy',
    about: vm,
    found: `${stated(left)} No migration in the log has ${marks.length === 0 ? 'brought it there or sent it' : `the id ${list(marks)}`}.`,
    cites,
    todo: isStopped
      ? '`ferry recover` takes it away.'
      : `Who made it: somebody by hand, or a log before this one? If nobody wants it, end it by hand; until then ${vm} cannot come there.`,
  }
}

/** Does the log know of a migration that can have left this copy there? */
function isKnown({ fleet, guest, vm }: Case, { host, receives }: Copy): boolean {
  if (receives !== undefined) return migrationOf(fleet, receives.migration)?.vm === vm
  const had = (migration: Migration | undefined) =>
    migration?.vm === vm &&
    [migration.source, targetOf(migration), ...migration.triedTargets].includes(host)
  return had(guest.migration) || [...fleet.past.values()].some(had)
}

const stated = (copies: readonly Copy[]): string =>
  `${copies.map(({ host, state }) => `A copy on ${host} is ${state}`).join(', ')}.`

const list = (names: readonly string[]): string => names.join(' and ')

export const rules: readonly Rule[] = [
  runsTwice,
  unresponsive,
  inDoubt,
  goneWithHost,
  runsNowhere,
  runsElsewhere,
  orphan,
  unknownCopy,
]

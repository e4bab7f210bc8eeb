import type { EventOf } from '@ferry/schemas/event'
import type { GuestState } from '@ferry/schemas/guest'
import type { RequestRefusal } from '@ferry/schemas/refusal'
import type { RecoverRequest } from '@ferry/schemas/request'
import { timestamp } from '@ferry/events/clock'
import type { Recovery } from '@ferry/events/alarms'
import type { Fleet } from '@ferry/events/fleet'
import type { Guest } from '@ferry/events/guest'
import { targetOf } from '@ferry/events/migration'
import { isEnded } from '@ferry/events/phases'
import type { Judgement } from './request.ts'
import { hasListened } from './world.ts'
import type { World } from './world.ts'

/**
 * The way back after the log has lost its tail: what every host says now is compared with what the log still holds.
 * Where only one answer can be right it is taken from the inventories; anything else a person has to say.
 */
export function judgeRecover(
  fleet: Fleet,
  request: RecoverRequest,
  world: World,
): Judgement<'LogRecovered'> {
  const { by, evidence, without, guests: said } = request
  const alarms = Object.values(fleet.alarms.standing)
  if (alarms.length === 0) {
    const { recovery } = fleet.alarms
    return recovery !== undefined && isAnsweredBy(recovery, request)
      ? { recorded: recovery.position }
      : { refusal: { type: 'LogWhole' } }
  }
  // A host that neither this log nor any coordinator remembers can still be heard, unless it has lost its way to here.
  if (!hasListened(world)) return { refusal: { type: 'NotListenedYet' } }
  const speaking = without.filter((host) => world.alive.has(host))
  if (speaking.length > 0) return { refusal: { type: 'HostsAlive', hosts: speaking } }
  const hosts = silentSince(fleet, world).filter((host) => !without.includes(host))
  if (hosts.length > 0) return { refusal: { type: 'HostsSilent', hosts } }

  const answers = new Map(said.map(({ vm, host }) => [vm, { host }]))
  const guests: EventOf<'LogRecovered'>['data']['guests'] = []
  for (const vm of new Set([...fleet.guests.keys(), ...answers.keys()])) {
    const guest = fleet.guests.get(vm)
    const place = placeOf(vm, guest, { answer: answers.get(vm), without })
    if (place === undefined) continue
    if ('refusal' in place) return place
    guests.push({ vm, ...place })
  }
  const { head } = fleet.alarms
  const positions = alarms.map(({ position }) => position)
  return {
    decision: {
      type: 'LogRecovered',
      id: `LogRecovered@${head}.${Math.max(...positions)}.${Math.floor(world.now)}`,
      writer: world.me,
      time: timestamp(world.now),
      data: {
        after: head,
        answers: positions,
        by,
        ...(evidence === undefined ? {} : { evidence }),
        without,
        guests,
      },
    },
  }
}

/** Whoever asked for this recovery asks again. What it recorded beside what was said, the inventories said. */
const isAnsweredBy = (recovery: Recovery, { by, evidence, without, guests }: RecoverRequest) =>
  recovery.by === by &&
  recovery.evidence === evidence &&
  recovery.without.length === without.length &&
  recovery.without.every((host, nth) => host === without[nth]) &&
  guests.every(({ vm, host }) =>
    recovery.guests.some((place) => place.vm === vm && place.host === host),
  )

/**
 * Hosts that have not said what runs there since they stopped for the last alarm. What is left of the log need not know
 * all of them: one that was ever heard to beat, or has raised an alarm itself, is there as well.
 */
export function silentSince(fleet: Fleet, world: World): string[] {
  const alarms = Object.values(fleet.alarms.standing)
  const alarmedAt = Math.max(0, ...alarms.map(({ position }) => position))
  const hosts = [...fleet.hosts.keys(), ...world.known, ...alarms.flatMap(({ host }) => host ?? [])]
  return [...new Set(hosts)].filter((host) => {
    const { position = 0, report } = fleet.hosts.get(host) ?? {}
    return !world.alive.has(host) || Math.min(position, report?.stopped ?? 0) < alarmedAt
  })
}

type Place = { readonly host?: string; readonly isRunning: boolean }

/** Where a guest belongs. `undefined`: nothing is in question about it. */
export function placeOf(
  vm: string,
  guest: Guest | undefined,
  told: {
    readonly answer?: { readonly host?: string | undefined } | undefined
    readonly without: readonly string[]
  },
): Place | { readonly refusal: RequestRefusal } | undefined {
  const { answer, without } = told
  const copies = Object.entries(guest?.seenOn ?? {})
    .map(([host, { state }]) => ({ host, state }))
    .filter(({ host }) => !without.includes(host))
  const running = copies.filter(({ state }) => mayRun.has(state)).map(({ host }) => host)
  const [only] = running
  if (running.length > 1) return { refusal: { type: 'GuestOnSeveralHosts', vm, hosts: running } }

  if (answer !== undefined) {
    const { host } = answer
    const isOffered =
      host === undefined ||
      without.includes(host) ||
      copies.some((copy) => copy.host === host && isWhole.has(copy.state))
    // A guest that runs belongs where it runs: nobody may say otherwise before it has been stopped there.
    if (!isOffered || (only !== undefined && only !== host))
      return { refusal: { type: 'NoWholeCopy', vm, host: host ?? 'nobody' } }
    return { ...(host === undefined ? {} : { host }), isRunning: only !== undefined }
  }

  const migration = guest?.migration
  const isMoving =
    migration !== undefined && !isEnded(migration.phase) && migration.phase !== 'queued'
  const [first, ...others] = copies
  const isPlain = others.length === 0 && (first === undefined || !isLeftover.has(first.state))
  // A fence that the log still holds may have been settled in what it lost: the copy that it speaks against may be the one.
  const isFenced = Object.keys(guest?.stale ?? {}).length > 0
  if (!isMoving && isPlain && !isFenced) return undefined
  const unclear = { refusal: { type: 'GuestUnclear' as const, vm, copies } }
  if (copies.some(({ state }) => state === 'unresponsive')) return unclear
  if (only !== undefined) return { host: only, isRunning: true }

  // It runs nowhere. The other copy, made to receive it and never started, proves that it did not run on elsewhere.
  const whole = copies.filter(({ state }) => isWhole.has(state))
  const target = migration === undefined ? undefined : targetOf(migration)
  const proof = copies.some(
    ({ host, state }) => neverRan.has(state) && (!isMoving || host === target),
  )
  const [home] = whole
  return whole.length === 1 && home !== undefined && proof
    ? { host: home.host, isRunning: false }
    : unclear
}

const mayRun = new Set<GuestState>(['running', 'unresponsive'])
const isWhole = new Set<GuestState>(['running', 'paused', 'sent'])
export const neverRan = new Set<GuestState>(['receiving', 'loaded'])
/** Left by a migration: such a copy does not stand alone for long. */
export const isLeftover = new Set<GuestState>(['sent', 'receiving', 'loaded'])

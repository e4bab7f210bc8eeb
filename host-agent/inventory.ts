import type { GuestReport } from '@ferry/schemas/inventory'
import type { DataOf } from '@ferry/schemas/messages'
import { timestamp } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import type { Log } from '@ferry/events/log'
import type { Registers } from '@ferry/events/registers'
import type { Say } from '@ferry/events/say'
import { hostSubject, token } from '@ferry/events/subjects'
import type { Driver } from './driver.ts'

/** What a host says of itself: what it can run and what it runs, again whenever that changed; and that it is alive. */
export type InventoryEdges = {
  readonly host: string
  readonly log: Log
  readonly heartbeats: Registers
  readonly clock: Clock
  readonly say: Say
  readonly driver: Driver
  readonly facts: Pick<
    DataOf<'HostReported'>,
    | 'address'
    | 'key'
    | 'agentVersion'
    | 'transferVersion'
    | 'definitionVersions'
    | 'decisionsVersion'
  >
  /** The position of this host's last fact, as far as it knows. */
  readonly upTo: () => Promise<number>
  /** The alarm about the log that this host has stopped for, when all that was under way has ended; undefined: it goes on. */
  readonly stopped: () => Promise<number | undefined>
  readonly signal: AbortSignal
}

/** Changes within this time become one report. */
const SETTLE_MS = 50
/** Looked at anyway after so long, and the clock is measured again. */
const LOOK_AGAIN_MS = 30_000
const BEAT_MS = 1000

type Measured = NonNullable<DataOf<'HostReported'>['clock']>

export type Reporter = {
  /** Reports what has been reported already: the log may have forgotten it. */
  readonly again: () => void
  /** To be told of each of this host's facts. One that the last report did not know, and that stands before it, takes its effect. */
  readonly noted: (position: number) => void
  /** Resolves when a first report stands in the log, or when the agent ends. */
  readonly reported: Promise<void>
  readonly reporting: Promise<void>
}

export function reportInventory(edges: InventoryEdges): Reporter {
  const present: Present = { wake: new AbortController(), text: '', asOf: 0 }
  let told = () => {}
  const reported = new Promise<void>((resolve) => {
    told = resolve
  })
  edges.driver.onChange(() => present.wake.abort())
  return {
    again: () => {
      present.text = ''
      present.wake.abort()
    },
    noted: (position) => {
      if (position > present.asOf) present.unknown = Math.min(position, present.unknown ?? position)
      wakeIfVoid(present)
    },
    reported,
    reporting: report(edges, present, told).finally(told),
  }
}

/** The last report, and what wakes whoever waits to make the next one. */
type Present = {
  wake: AbortController
  text: string
  asOf: number
  /** Where it stands; undefined while it is on its way. */
  position?: number | undefined
  /** The first of this host's facts behind `asOf`. */
  unknown?: number | undefined
}

/** A guest may have gone after its host spoke of it, and before the host knew that its word stands in the log. */
function wakeIfVoid({ unknown, position, wake }: Present): void {
  if (unknown !== undefined && position !== undefined && unknown < position) wake.abort()
}

async function report(edges: InventoryEdges, present: Present, told: () => void): Promise<void> {
  const { host, log, clock, say, driver, facts, upTo, stopped, signal } = edges
  const startedAt = Math.floor(clock.now())
  let measured: Measured | undefined

  for (let number = 1; !signal.aborted;) {
    present.wake = new AbortController()
    try {
      const alarm = await stopped()
      const asOf = await upTo()
      if (asOf !== present.asOf) Object.assign(present, { asOf, unknown: undefined })
      const guests = await inventoryOf(driver)
      const data = {
        ...facts,
        ...driver.hypervisor,
        guests,
        asOf,
        ...(alarm === undefined ? {} : { stopped: alarm }),
        ...(measured === undefined ? {} : { clock: measured }),
      }
      if (JSON.stringify({ ...data, clock: 0 }) !== present.text || number <= 2) {
        const sentAt = clock.now()
        const id = `${host}.HostReported.${startedAt}.${number}`
        present.position = undefined
        const { position } = await log.append(
          { type: 'HostReported', id, writer: { host }, time: timestamp(sentAt), data },
          { signal },
        )
        told()
        measured = await measure(log, host, id, { sentAt, answeredAt: clock.now() })
        present.text = JSON.stringify({ ...data, clock: 0 })
        present.position = position
        wakeIfVoid(present)
        number += 1
        // The second report carries the clock that the first one measured.
        if (number === 2) continue
      }
    } catch (error) {
      if (!signal.aborted)
        say.warn({ err: error }, 'the inventory could not be reported; it will be tried again')
    }
    await clock.sleep(LOOK_AGAIN_MS, AbortSignal.any([present.wake.signal, signal])).catch(() => {})
    await clock.sleep(SETTLE_MS, signal).catch(() => {})
  }
}

async function inventoryOf(driver: Driver): Promise<GuestReport[]> {
  const guests = (await driver.inspect()).toSorted((a, b) => (a.vm < b.vm ? -1 : 1))
  const running = guests.filter(({ state }) => state === 'running').map(({ vm }) => vm)
  const foreseen = await driver.foresee?.(running)
  return guests.map((guest) => {
    const unmovable = foreseen?.get(guest.vm)
    return unmovable === undefined ? guest : { ...guest, unmovable }
  })
}

/** Does everybody know this host by the key that it has now? If not, nothing that is sealed for it can be opened. */
export async function isKnownBy(log: Log, host: string, key: string): Promise<boolean> {
  const entry = await log.last(hostSubject(host))
  if (entry?.message.is !== 'event') return false
  const { event } = entry.message
  return event.type === 'HostReported' && event.data.key === key
}

/** The log's server stamps what it stores: somewhere between sending and the answer, both clocks were read. */
async function measure(
  log: Log,
  host: string,
  id: string,
  { sentAt, answeredAt }: { sentAt: number; answeredAt: number },
): Promise<Measured | undefined> {
  const entry = await log.last(hostSubject(host))
  if (entry?.message.is !== 'event' || entry.message.event.id !== id) return undefined
  const errorMs = (answeredAt - sentAt) / 2
  return { offsetMs: (sentAt + answeredAt) / 2 - entry.storedAt, errorMs }
}

export async function beat({
  host,
  heartbeats,
  clock,
  say,
  signal,
}: InventoryEdges): Promise<void> {
  while (!signal.aborted) {
    heartbeats
      .put(`heartbeat.${token(host)}`, timestamp(clock.now()))
      .catch((error: unknown) => say.debug({ err: error }, 'a heartbeat was lost'))
    await clock.sleep(BEAT_MS, signal).catch(() => {})
  }
}

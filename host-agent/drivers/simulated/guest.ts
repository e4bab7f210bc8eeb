import type { GuestNeeds, GuestState } from '@ferry/schemas/guest'
import type { Clock } from '@ferry/events/clock'

/**
 * A guest without a hypervisor: real pages, and a vCPU that sweeps over them for ever, adding one to the first byte of
 * each, as Ferry's boot sector does under QEMU. So the same test finds a lost or stale page in both: along the sweep the
 * bytes may fall only once. Time is not simulated by steps: a guest is brought up to date whenever somebody looks.
 */
export type SimulatedGuest = {
  readonly vm: string
  readonly needs: GuestNeeds
  readonly definition: string
  readonly memory: Buffer
  /** Pages written since they were last sent. */
  readonly dirty: Set<number>
  pagesPerSecond: number
  state: GuestState
  receives?: { readonly migration: string; readonly attempt: number }
  /** The next page of the sweep, and how many were written in all: the counter that must never go backwards. */
  cursor: number
  written: number
  /** Up to here it has run, by the clock. */
  ranUntil: number
}

export const PAGE_BYTES = 4096

/** At most so many writes are made up for in one look: a process that slept for an hour has not missed anything. */
const MOST_WRITES = 1_000_000

/** Lets a running guest do what it would have done by now. */
export function catchUp(guest: SimulatedGuest, clock: Clock): void {
  const now = clock.elapsed()
  if (guest.state === 'running') {
    const due = Math.floor(((now - guest.ranUntil) / 1000) * guest.pagesPerSecond)
    if (due === 0) return
    const pages = guest.memory.length / PAGE_BYTES
    for (let done = 0; done < Math.min(due, MOST_WRITES); done++) {
      const at = guest.cursor * PAGE_BYTES
      guest.memory.writeUInt8((guest.memory.readUInt8(at) + 1) & 0xff, at)
      guest.dirty.add(guest.cursor)
      guest.cursor = (guest.cursor + 1) % pages
      guest.written += 1
    }
  }
  guest.ranUntil = now
}

export function setState(guest: SimulatedGuest, state: GuestState, clock: Clock): void {
  catchUp(guest, clock)
  guest.state = state
  guest.ranUntil = clock.elapsed()
}

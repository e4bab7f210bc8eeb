import { Type } from 'typebox'
import { parse } from '@ferry/schemas/parse'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import type { Register, Registers } from '@ferry/events/registers'

/**
 * Who leads: a register that the leader writes again and again, and that another takes when it has stood still for
 * a whole lease by that other's own clock. No safety hangs on it: a late leader's decisions lose by the order of the
 * log. It keeps two coordinators from doing the same work.
 *
 * The others are woken by each renewal and otherwise sleep until the lease would be over: a dead leader is followed a
 * lease after its last renewal, with nothing on top for looking at intervals.
 */
export type Lease = { readonly renewMs: number; readonly leaseMs: number }

/** Five renewals in a row have to fail, so that a busy machine does not change its leader; and 2 s are kept with room. */
export const defaultLease: Lease = { renewMs: 300, leaseMs: 1500 }

const PREFIX = 'lease'
const KEY = `${PREFIX}.coordinator`

/** An empty holder: the last one left in an orderly way, and anybody may take it at once. */
const Holding = Type.Object({
  holder: Type.String(),
  epoch: Type.Integer({ minimum: 0 }),
  beat: Type.Integer({ minimum: 0 }),
})

type Held = {
  readonly revision: number
  readonly epoch: number
  readonly beat: number
  readonly renewedAt: number
}

/** Runs until the signal: takes the lease when it can, keeps it while it can, and says when either changes. */
export async function holdLease(options: {
  readonly me: string
  readonly registers: Registers
  readonly clock: Clock
  readonly lease: Lease
  readonly gained: (epoch: number) => void
  readonly lost: () => void
  readonly signal: AbortSignal
}): Promise<void> {
  const { me, registers, clock, lease, gained, lost, signal } = options
  let held: Held | undefined
  let seen: { revision: number; at: number } | undefined
  const bell = listen(registers, signal)

  const write = async (
    expected: number,
    epoch: number,
    beat: number,
  ): Promise<Held | undefined> => {
    const renewedAt = clock.elapsed()
    const value = JSON.stringify({ holder: me, epoch, beat })
    const revision = await registers.write(KEY, value, expected)
    return revision === undefined ? undefined : { revision, epoch, beat, renewedAt }
  }

  const keep = async (mine: Held): Promise<Held | undefined> => {
    const renewed = await write(mine.revision, mine.epoch, mine.beat + 1)
    if (renewed !== undefined) return renewed
    // Somebody was faster, or nobody answered: the register tells, and so does the time.
    const register = await registers.read(KEY)
    return register?.revision === mine.revision ? mine : undefined
  }

  const take = async (): Promise<Held | undefined> => {
    const register = await registers.read(KEY)
    if (register === undefined) return write(0, 1, 0)
    const { holder, epoch } = holdingOf(register)
    if (seen?.revision !== register.revision)
      seen = { revision: register.revision, at: clock.elapsed() }
    const isFree = holder === '' || clock.elapsed() - seen.at >= lease.leaseMs
    return isFree ? write(register.revision, epoch + 1, 0) : undefined
  }

  while (!signal.aborted) {
    const before = held
    const turn = before === undefined ? take() : keep(before)
    // No answer is no answer: what is held runs out by itself.
    held = await within(clock, lease.leaseMs, 'the lease', turn).catch(() => before)
    if (held !== undefined && clock.elapsed() - held.renewedAt >= lease.leaseMs) held = undefined
    if (before === undefined && held !== undefined) gained(held.epoch)
    if (before !== undefined && held === undefined) lost()
    if (held !== undefined) await clock.sleep(lease.renewMs, signal).catch(() => {})
    else {
      const left = (seen?.at ?? clock.elapsed()) + lease.leaseMs - clock.elapsed()
      // A lease that is over and could not be taken is tried for as a leader would renew it.
      await bell.orAfter(clock, left > 0 ? left : lease.renewMs)
    }
  }
  await bell.silent
  if (held === undefined) return
  lost()
  const value = JSON.stringify({ holder: '', epoch: held.epoch, beat: 0 })
  await registers.write(KEY, value, held.revision).catch(() => {})
}

/** Rings whenever the register is written. A bell that is broken costs a lease, no more: then time alone wakes. */
function listen(registers: Registers, signal: AbortSignal) {
  let hasRung = false
  let wake = () => {}
  const ring = () => {
    hasRung = true
    wake()
  }
  signal.addEventListener('abort', ring, { once: true })
  const ringing = async () => {
    for await (const _ of registers.watch(PREFIX, signal)) ring()
  }
  return {
    orAfter: async (clock: Clock, ms: number) => {
      if (!hasRung)
        await new Promise<void>((resolve) => {
          const prevent = clock.after(ms, resolve)
          wake = () => {
            prevent()
            resolve()
          }
        })
      hasRung = false
    },
    silent: ringing().catch(() => {}),
  }
}

const holdingOf = ({ value }: Register) => parse(Holding, JSON.parse(value), 'the lease')

import { join } from 'node:path'
import { systemClock } from '@ferry/events/clock'
import { connectQmp } from '@ferry/host-agent/drivers/qemu/qmp'
import type { Qmp } from '@ferry/host-agent/drivers/qemu/qmp'

/**
 * When a guest's copies ran, without asking Ferry: through the operators' monitors, by QEMU's own times. So a pause is
 * measured to the microsecond, and two copies that ran at once are seen however short that was (I1).
 */
export type Pauses = {
  /** Listens to a copy from now on. @returns false where it has no monitor that answers. */
  readonly watch: (copy: string, folder: string) => Promise<boolean>
  /** Resolves when a copy stops next, or at once when it is known to have stopped. */
  readonly stopped: Promise<void>
  /** The longest time in which no copy ran, between two in which one did. */
  readonly longestMs: () => number | undefined
  /** Copies that ran at the same time, as sentences. */
  readonly overlaps: () => string[]
  /** Lets go of the monitors: each takes one visitor. */
  readonly close: () => void
}

type Stint = { readonly copy: string; readonly from: number; until: number }

export function watchPauses(): Pauses {
  const stints: Stint[] = []
  const monitors: Qmp[] = []
  let tellStopped = () => {}
  const stopped = new Promise<void>((resolve) => (tellStopped = resolve))

  const watch: Pauses['watch'] = async (copy, folder) => {
    const qmp = await connectQmp(join(folder, 'operator.qmp'), systemClock).catch(() => undefined)
    if (qmp === undefined) return false
    monitors.push(qmp)
    let open: Stint | undefined
    const runs = (at: number) => {
      if (open !== undefined) return
      open = { copy, from: at, until: Number.POSITIVE_INFINITY }
      stints.push(open)
    }
    const rests = (at: number) => {
      if (open === undefined) return
      open.until = at
      open = undefined
      tellStopped()
    }
    qmp.onEvent(({ event, at }) => {
      if (event === 'RESUME') runs(at)
      if (event === 'STOP') rests(at)
    })
    void qmp.closed.then(() => rests(systemClock.now()))
    const answer = (await qmp.execute('query-status').catch(() => ({}))) as { status?: string }
    if (answer.status === 'running') runs(systemClock.now())
    return true
  }

  return {
    watch,
    stopped,
    longestMs: () => {
      const inOrder = stints.toSorted((a, b) => a.from - b.from)
      const gaps = inOrder.slice(1).map(({ from }, nth) => from - (inOrder[nth]?.until ?? from))
      return gaps.length === 0 ? undefined : Math.max(...gaps)
    },
    overlaps: () =>
      stints.flatMap((one, nth) =>
        stints
          .slice(nth + 1)
          .filter(
            (other) => other.copy !== one.copy && one.from < other.until && other.from < one.until,
          )
          .map((other) => `${one.copy} and ${other.copy} ran at the same time`),
      ),
    close: () => {
      for (const qmp of monitors) qmp.close()
    },
  }
}

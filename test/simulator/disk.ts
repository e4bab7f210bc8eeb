import type { KnownHosts } from '@ferry/coordinator/known-hosts'
import { further } from '@ferry/events/watermark'
import type { Mark, Watermark } from '@ferry/events/watermark'
import type { Life } from './life.ts'
import type { Time } from './time.ts'

/** What a process has written down outlives it. */
export type Disk = {
  /** As the file does it: what was seen and not written down is forgotten with the process. */
  readonly watermark: (life: Life) => Watermark
  readonly knownHosts: KnownHosts
  /** For so long it takes nothing. */
  readonly fill: (ms: number) => void
}

/** As often as the file is written when nobody waits for it. */
const WRITE_EVERY_MS = 1000
const SYNC_MS = 2

export function diskOn(time: Time): Disk {
  let kept: Mark | undefined
  const known = new Set<string>()
  let fullUntil = 0
  const check = () => {
    if (fullUntil > time.now()) throw new Error('ENOSPC: no space left on device')
  }
  return {
    fill: (ms) => {
      fullUntil = time.now() + ms
    },
    knownHosts: {
      names: () => known,
      add: (host) => {
        if (fullUntil <= time.now()) known.add(host)
      },
    },
    watermark: (life) => {
      let mark = kept
      let isPlanned = false
      const keep = () => {
        if (mark === kept) return
        check()
        if (!life.isDead()) kept = mark
      }
      const sync = async () => {
        await life.clock.sleep(SYNC_MS)
        check()
      }
      const keepSoon = () => {
        if (isPlanned) return
        isPlanned = true
        life.clock.after(WRITE_EVERY_MS, () => {
          isPlanned = false
          try {
            keep()
          } catch {
            // Tried again when something more is seen.
          }
        })
      }
      return {
        present: () => mark,
        seen: (event) => {
          const next = further(mark, event)
          if (next === mark) return
          mark = next
          keepSoon()
        },
        begin: async (next) => {
          mark = next
          keep()
          await sync()
        },
        keep,
        sync,
      }
    },
  }
}

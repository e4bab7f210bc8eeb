import type { Entry } from './entry.ts'

/**
 * The last event that somebody has seen in the log, and in which life of the log: enough to notice later that the log
 * has lost its tail. Its id is part of it, because positions are used again after a loss.
 */
export type Mark = {
  readonly life: number
  /** 0: nothing was seen in this life yet. */
  readonly position: number
  readonly id: string
  readonly subject: string
}

export type Seen = Omit<Mark, 'life'>

export interface Watermark {
  /** `undefined`: this one has never seen any log. */
  present(): Mark | undefined
  /** Remembers it if it is further than what is remembered; written down within about a second. */
  seen(event: Seen): void
  /** Forgets the life before. Resolves when that would outlive a power cut. */
  begin(mark: Mark): Promise<void>
  /** Writes down all that was seen: behind this, it outlives the process. */
  keep(): void
  /** Resolves when all that was kept would outlive a power cut as well. */
  sync(): Promise<void>
}

/** For tests, and for whoever may forget. */
export function memoryWatermark(): Watermark {
  let mark: Mark | undefined
  return {
    present: () => mark,
    seen: (event) => {
      mark = further(mark, event)
    },
    begin: async (next) => {
      mark = next
    },
    keep: () => {},
    sync: async () => {},
  }
}

export const further = (mark: Mark | undefined, event: Seen): Mark | undefined =>
  mark === undefined || event.position <= mark.position ? mark : { ...event, life: mark.life }

export const nothingIn = (life: number): Mark => ({ life, position: 0, id: '', subject: '' })

/** Whether the log, which has this entry as the first one of the subject from there on, lacks what was seen. */
export const isMissing = ({ position, id }: Mark, entry: Entry | undefined): boolean =>
  position > 0 &&
  !(entry?.position === position && entry.message.is === 'event' && entry.message.event.id === id)

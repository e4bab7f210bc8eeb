import type { KV, KvEntry } from '@nats-io/kv'
import type { Clock } from '../clock.ts'
import type { Register, Registers } from '../registers.ts'
import type { Link } from './jetstream.ts'

/** Registers in a NATS key-value bucket. A write that is not answered counts as lost: the caller tries again. */
export function kvRegisters(bucket: KV, onReconnect: Link['onReconnect'], clock: Clock): Registers {
  /** A watch lives on one server of a cluster and dies with it; nobody says so, and silence is all that can be noticed. */
  const untilDeaf = async (silentForMs: () => number, signal: AbortSignal) => {
    while (silentForMs() < DEAF_MS) await clock.sleep(DEAF_MS - silentForMs(), signal)
  }
  return {
    read: async (key) => {
      const entry = await bucket.get(key)
      return entry === null ? undefined : registerOf(entry)
    },
    write: async (key, value, expected) => {
      try {
        return expected === 0
          ? await bucket.create(key, value)
          : await bucket.update(key, value, expected)
      } catch {
        return undefined
      }
    },
    put: async (key, value) => void (await bucket.put(key, value)),
    async *watch(prefix, signal) {
      while (!signal.aborted) {
        const watching = await bucket.watch({ key: `${prefix}.>` }).catch(() => undefined)
        if (watching === undefined) {
          await clock.sleep(AGAIN_MS, signal).catch(() => {})
          continue
        }
        const stop = () => watching.stop()
        // By itself it would take seconds to notice that the server has forgotten it.
        const forget = onReconnect(stop)
        signal.addEventListener('abort', stop, { once: true })
        if (signal.aborted) stop()
        let heardAt = clock.elapsed()
        const over = new AbortController()
        void untilDeaf(() => clock.elapsed() - heardAt, over.signal).then(stop, () => {})
        for await (const entry of watching) {
          heardAt = clock.elapsed()
          if (entry.operation === 'PUT') yield registerOf(entry)
        }
        over.abort()
        forget()
        signal.removeEventListener('abort', stop)
      }
    },
  }
}

/** The pause before a watch that could not be opened is opened again. */
const AGAIN_MS = 200
/** What is watched is written every second. A watch that is opened anew gives what stands there once more. */
const DEAF_MS = 2500

const registerOf = (entry: KvEntry): Register => ({
  key: entry.key,
  value: entry.string(),
  revision: entry.revision,
  writtenAt: entry.created.getTime(),
})

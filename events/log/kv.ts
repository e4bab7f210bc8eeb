import type { KV, KvEntry } from '@nats-io/kv'
import type { Register, Registers } from '../registers.ts'

/** Registers in a NATS key-value bucket. A write that is not answered counts as lost: the caller tries again. */
export function kvRegisters(bucket: KV): Registers {
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
      const watching = await bucket.watch({ key: `${prefix}.>` })
      const stop = () => watching.stop()
      signal.addEventListener('abort', stop, { once: true })
      if (signal.aborted) stop()
      for await (const entry of watching) if (entry.operation === 'PUT') yield registerOf(entry)
    },
  }
}

const registerOf = (entry: KvEntry): Register => ({
  key: entry.key,
  value: entry.string(),
  revision: entry.revision,
  writtenAt: entry.created.getTime(),
})

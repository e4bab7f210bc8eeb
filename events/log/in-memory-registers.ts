import type { Clock } from '../clock.ts'
import { Queue } from '../queue.ts'
import type { Register, Registers } from '../registers.ts'
import { matching } from './in-memory.ts'

/** Registers without a server, for tests. */
export function memoryRegisters(clock: Clock): Registers {
  const registers = new Map<string, Register>()
  const watchers = new Set<(register: Register) => void>()
  let revision = 0
  const set = (key: string, value: string): number => {
    revision += 1
    const register = { key, value, revision, writtenAt: clock.now() }
    registers.set(key, register)
    for (const tell of watchers) tell(register)
    return revision
  }
  return {
    read: async (key) => registers.get(key),
    write: async (key, value, expected) =>
      (registers.get(key)?.revision ?? 0) === expected ? set(key, value) : undefined,
    put: async (key, value) => {
      set(key, value)
    },
    async *watch(prefix, signal) {
      const queue = new Queue<Register>()
      const isWanted = matching(`${prefix}.>`)
      const tell = (register: Register) => {
        if (isWanted(register.key)) queue.put(register)
      }
      const stop = () => queue.close()
      signal.addEventListener('abort', stop, { once: true })
      if (signal.aborted) stop()
      for (const register of registers.values()) tell(register)
      watchers.add(tell)
      try {
        yield* queue
      } finally {
        watchers.delete(tell)
        signal.removeEventListener('abort', stop)
      }
    },
  }
}

/**
 * A few small values that are not history: who leads, who is alive. Lost, they are written again; nothing is ever
 * decided by them alone, because the log's order voids whatever a late leader still writes.
 */
export interface Registers {
  read(key: string): Promise<Register | undefined>
  /**
   * Writes if the register still stands at `expected` (0: never written).
   *
   * @returns the new revision, or undefined when somebody was faster or nobody answered.
   */
  write(key: string, value: string, expected: number): Promise<number | undefined>
  /** Writes whatever stands there. Lost when nobody answers: the next one will do. */
  put(key: string, value: string): Promise<void>
  /** Every register under a prefix, and then every change, until the signal. What was told may be told again. */
  watch(prefix: string, signal: AbortSignal): AsyncIterable<Register>
}

export type Register = {
  readonly key: string
  readonly value: string
  readonly revision: number
  /** By the server's clock, in milliseconds since 1970. */
  readonly writtenAt: number
}

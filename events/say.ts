import { pino } from 'pino'
import type { Logger } from 'pino'

/** The structured log of a process: for its operator, never for deciding anything. */
export type Say = Pick<Logger, 'debug' | 'info' | 'warn' | 'error'>

/** Lines of JSON on stderr, so that stdout stays for answers. */
export const sayOnStderr = (name: string, level: string): Say =>
  pino(
    {
      name,
      level,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    pino.destination(2),
  )

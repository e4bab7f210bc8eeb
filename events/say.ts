import { pino } from 'pino'
import type { Logger } from 'pino'
import type { Check } from './check.ts'

/** The structured log of a process: for its operator, never for deciding anything. */
export type Say = Pick<Logger, 'debug' | 'info' | 'warn' | 'error'>

/** How much a process says, the most first. */
export const levels = ['debug', 'info', 'warn', 'error'] as const

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

/** What was found at the start; whatever is not good stands out, with what to do about it. */
export function sayChecks(say: Say, checks: readonly Check[]): void {
  for (const { what, is, found, todo } of checks) {
    const line = `${what}: ${found}`
    if (todo === undefined) say.info(line)
    else say.warn({ is, todo }, line)
  }
}

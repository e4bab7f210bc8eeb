import type { CommandName } from '@ferry/events/phases'

/**
 * How long to wait before a silent host is asked again. Nobody is ever assumed to have failed: the same question
 * is put again, and a host that did the thing already gives the answer that it gave then.
 */
export function patienceMs(command: CommandName | 'Start', timesAsked: number): number {
  const waits =
    command === 'Perform' || command === 'Finish' ? [60_000] : [5_000, 10_000, 20_000, 30_000]
  return waits[Math.min(timesAsked, waits.length) - 1] ?? 0
}

/** How long to wait before a fence that failed so often is tried again; undefined: it is left to people now. */
export const fencePatienceMs = (timesFailed: number): number | undefined =>
  [0, 10_000, 30_000, 60_000, 120_000][timesFailed]

import { setFlagsFromString } from 'node:v8'
import { systemClock } from '@ferry/events/clock'
import { connect } from '@ferry/events/log/connect'
import type { Connection } from '@ferry/events/log/connect'
import type { HostFile } from './settings.ts'

const LOG_PATIENCE_MS = 60_000

/** To the log that this host obeys. */
export function connectToLog(
  settings: HostFile,
  name: string,
  signal: AbortSignal,
): Promise<Connection> {
  const { servers, credentialsFile, durability = 'any', logIsSynced = false } = settings
  const address = {
    servers,
    name,
    isSaidToSync: logIsSynced,
    ...(credentialsFile === undefined ? {} : { credentialsFile }),
  }
  return connect(address, systemClock, { patienceMs: LOG_PATIENCE_MS, signal, durability })
}

/**
 * Most of an agent's code runs once in a while, and then a paused guest waits for it: V8 is to compile it when it is
 * first called, and to keep it until the next time.
 */
export function stayReady(): void {
  setFlagsFromString('--always-sparkplug')
  setFlagsFromString('--no-flush-bytecode')
}

/** Whether V8 may compile what is used often once more, and better. Its compiler takes processor time from all others. */
export const mayOptimize = (may: boolean): void => setFlagsFromString(may ? '--opt' : '--no-opt')

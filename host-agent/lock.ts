import { join } from 'node:path'
import { takeLock } from '@ferry/events/log/lock'

export class DirectoryInUse extends Error {
  override readonly name = 'DirectoryInUse'

  constructor(directory: string) {
    super(`another agent runs on ${directory}`)
  }
}

/**
 * One agent for each state directory: two would answer the same commands.
 *
 * @returns how to give it back.
 */
export async function lockDirectory(directory: string): Promise<() => Promise<void>> {
  const unlock = await takeLock(join(directory, 'agent.lock'))
  if (unlock === undefined) throw new DirectoryInUse(directory)
  return unlock
}

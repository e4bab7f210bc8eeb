import { createHash } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { takeLock } from '@ferry/events/log/lock'

export class NameInUse extends Error {
  override readonly name = 'NameInUse'

  constructor(name: string, directory: string) {
    super(
      `another coordinator named ${name} remembers in ${directory} how far it has seen the log: give this one another --name or another --state`,
    )
  }
}

/**
 * One coordinator for each name in a state directory: two would write one watermark.
 *
 * @returns how to give it back.
 */
export async function lockName(name: string, directory: string): Promise<() => Promise<void>> {
  await mkdir(directory, { recursive: true })
  // The path of a socket has no more than 107 bytes, and a host's name may have 64.
  const short = createHash('sha256').update(name).digest('hex').slice(0, 12)
  const unlock = await takeLock(join(directory, `${short}.lock`))
  if (unlock === undefined) throw new NameInUse(name, directory)
  return unlock
}

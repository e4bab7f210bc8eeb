import { mkdir, open, readFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Say } from '@ferry/events/say'

/**
 * Hosts that were ever heard of. A log that comes back shorter, or empty, may have lost all that it knew of one, its
 * registers too; and a recovery that does not wait for such a host would have its guests started elsewhere (I1).
 */
export type KnownHosts = {
  readonly names: () => ReadonlySet<string>
  readonly add: (host: string) => void
}

/** For tests, and for whoever may forget. */
export function memoryKnownHosts(names: Iterable<string> = []): KnownHosts {
  const known = new Set(names)
  return { names: () => known, add: (host) => void known.add(host) }
}

/**
 * The same in a file that only grows: one name as JSON in each line. A line that was torn by a power cut does not parse,
 * and is passed over; its host is written again when it is heard again. So is one for which the disk had no room.
 */
export async function knownHostsFile(
  path: string,
  say: Say,
): Promise<KnownHosts & { readonly close: () => Promise<void> }> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  const handle = await open(path, 'a', 0o600)
  const known = new Set((await readFile(path, 'utf8')).split('\n').flatMap(nameIn))
  const written = new Set(known)
  let writing: Promise<void> = Promise.resolve()
  let isFailing = false
  const write = async (host: string) => {
    try {
      // The line before may be torn.
      await handle.appendFile(`\n${JSON.stringify(host)}\n`)
      await handle.datasync()
      isFailing = false
    } catch (error) {
      // With its next heartbeat it is tried again; until then this process remembers it.
      written.delete(host)
      if (!isFailing) say.error({ path, err: error }, 'hosts cannot be written down')
      isFailing = true
    }
  }
  return {
    names: () => known,
    add: (host) => {
      known.add(host)
      if (written.has(host)) return
      written.add(host)
      writing = writing.then(() => write(host))
    },
    close: async () => {
      await writing
      await handle.close()
    },
  }
}

function nameIn(line: string): string[] {
  try {
    const name: unknown = JSON.parse(line)
    return typeof name === 'string' ? [name] : []
  } catch {
    return []
  }
}

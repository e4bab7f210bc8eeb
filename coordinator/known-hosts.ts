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
 * and is passed over; its host is written again when it is heard again.
 */
export async function knownHostsFile(
  path: string,
  say: Say,
): Promise<KnownHosts & { readonly close: () => Promise<void> }> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  const handle = await open(path, 'a', 0o600)
  const known = new Set((await readFile(path, 'utf8')).split('\n').flatMap(nameIn))
  let writing: Promise<void> = Promise.resolve()
  const write = async (host: string) => {
    try {
      // The line before may be torn.
      await handle.appendFile(`\n${JSON.stringify(host)}\n`)
      await handle.datasync()
    } catch (error) {
      known.delete(host)
      say.error({ path, host, err: error }, 'this host is not remembered until it is heard again')
    }
  }
  return {
    names: () => known,
    add: (host) => {
      if (known.has(host)) return
      known.add(host)
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

import { createHash } from 'node:crypto'
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'

/**
 * Which fold this is: a hash over the source of everything that can change what an event means. So nobody has to
 * remember to raise a number, and a new release starts with one full replay.
 */
export async function foldVersion(): Promise<string> {
  const hash = createHash('sha256')
  for (const folder of [EVENTS, SCHEMAS])
    for (const file of (await readdir(folder)).filter((name) => name.endsWith('.ts')).toSorted())
      hash.update(`${file}\n`).update(await readFile(join(folder, file)))
  return hash.digest('hex').slice(0, 16)
}

const EVENTS = join(import.meta.dirname, '..')
const SCHEMAS = join(import.meta.dirname, '..', '..', 'schemas')

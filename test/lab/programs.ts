import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type * as Bundler from '../../bundle.mjs'

const ROOT = join(import.meta.dirname, '..', '..')

/** Writes programs of this repository into a folder, with all that they import, for a machine that has nothing but Node. */
export async function putPrograms(entries: readonly string[], folder: string): Promise<void> {
  // By its own place, or it would be put into the file that this goes into, and look for the sources beside that.
  const bundler = pathToFileURL(join(ROOT, 'bundle.mjs')).href
  const { bundleAll } = (await import(bundler)) as typeof Bundler
  await bundleAll(entries, folder)
}

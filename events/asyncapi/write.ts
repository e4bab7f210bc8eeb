import { mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { published } from './document.ts'

/** `pnpm schemas`: writes what `published` says into `schemas/published/`, and removes what it no longer says. */
const folder = join(import.meta.dirname, '..', '..', 'schemas', 'published')
const files = published()
await mkdir(folder, { recursive: true })
for (const old of await readdir(folder)) if (!(old in files)) await rm(join(folder, old))
for (const [name, content] of Object.entries(files))
  await writeFile(join(folder, name), `${JSON.stringify(content, null, 2)}\n`)
console.log(`${Object.keys(files).length} files in schemas/published`)

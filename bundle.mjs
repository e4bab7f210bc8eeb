import { createHash } from 'node:crypto'
import { mkdir, readFile, readdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { pathToFileURL } from 'node:url'

/**
 * Runs the TypeScript source, with all that it imports in one file: to load a thousand modules takes a process seconds,
 * and to load one a fraction of that. The file is kept until a source changes.
 */
const ROOT = import.meta.dirname
const ROOMS = ['schemas', 'events', 'coordinator', 'host-agent']
const KEPT = join(ROOT, 'node_modules', '.cache', 'ferry')
/** What an older source was made into is kept for so long: a process may be about to load it. */
const OLD_MS = 24 * 60 * 60_000

/** @param {string} entry from the root. */
export async function run(entry) {
  process.setSourceMapsEnabled(true)
  const file = join(KEPT, `${nameOf(entry)}.${await hashOf(entry)}.mjs`)
  try {
    return await import(pathToFileURL(file).href)
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND' || !error.message.includes(file)) throw error
  }
  try {
    await keep(entry, file)
  } catch (error) {
    if (!['EACCES', 'EROFS', 'EPERM'].includes(error.code)) throw error
    // Nothing may be kept here: then it is loaded module by module.
    const { register } = await import('tsx/esm/api')
    register()
    return import(pathToFileURL(join(ROOT, entry)).href)
  }
  return import(pathToFileURL(file).href)
}

/** Writes many at once into a folder, under the names that they have from the root; what several import stands there once. */
export const bundleAll = (entries, folder) =>
  bundle(entries, {
    outdir: folder,
    outbase: ROOT,
    outExtension: { '.js': '.mjs' },
    splitting: true,
  })

const nameOf = (entry) => entry.replaceAll('/', '-').replace(/\.ts$/, '')

/** Of all that may go into it: what stands in its own top folder as well. */
async function hashOf(entry) {
  const [top] = entry.split('/')
  const isInRoom = top === entry || ROOMS.includes(top)
  const lists = await Promise.all((isInRoom ? ROOMS : [...ROOMS, top]).map(sourcesIn))
  const files = [...lists.flat().toSorted(), entry, 'pnpm-lock.yaml', 'bundle.mjs']
  const texts = await Promise.all(files.map((file) => readFile(join(ROOT, file))))
  const hash = createHash('sha256').update(`${ROOT} ${process.version}\n`)
  for (const [nth, text] of texts.entries())
    hash.update(`${files[nth]} ${text.length}\n`).update(text)
  return hash.digest('hex').slice(0, 32)
}

/** Not of what it has installed: those are thousands of files, and the lockfile stands for them. */
async function sourcesIn(folder) {
  const found = await readdir(join(ROOT, folder), { withFileTypes: true })
  const lists = await Promise.all(
    found.map((each) => {
      const path = join(folder, each.name)
      if (each.isDirectory()) return each.name === 'node_modules' ? [] : sourcesIn(path)
      return each.name.endsWith('.ts') ? [path] : []
    }),
  )
  return lists.flat()
}

async function keep(entry, file) {
  await mkdir(KEPT, { recursive: true })
  const { outputFiles } = await bundle([entry], { outfile: file, write: false })
  for (const { path, contents } of outputFiles) {
    // Whole or not at all: another process may be starting as well.
    const fresh = `${path}.${process.pid}`
    await writeFile(fresh, contents)
    await rename(fresh, path)
  }
  await forgetOld(`${nameOf(entry)}.`)
}

async function forgetOld(prefix) {
  for (const name of await readdir(KEPT)) {
    if (!name.startsWith(prefix)) continue
    const path = join(KEPT, name)
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Date.now() }))
    if (Date.now() - mtimeMs > OLD_MS) await rm(path, { force: true })
  }
}

async function bundle(entries, output) {
  const { build } = await import('esbuild')
  return build({
    entryPoints: entries.map((entry) => join(ROOT, entry)),
    ...output,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: `node${process.versions.node}`,
    sourcemap: 'linked',
    sourcesContent: false,
    logLevel: 'error',
    // What is not an ES module asks for Node's own modules in the old way.
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
    },
    plugins: [{ name: 'where a source stands', setup: knowPlaces }],
  })
}

/** A source finds its neighbours by its own folder, not by that of the file it went into. */
function knowPlaces(build) {
  build.onLoad({ filter: /\.ts$/ }, async ({ path }) => {
    const text = await readFile(path, 'utf8')
    const isOurs = !relative(ROOT, path).includes('node_modules')
    const folder = JSON.stringify(dirname(path))
    return {
      loader: 'ts',
      contents: isOurs ? text.replaceAll('import.meta.dirname', folder) : text,
    }
  })
}

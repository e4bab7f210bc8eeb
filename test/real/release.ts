import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readFile, realpath, rename, rm, symlink } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { promisify } from 'node:util'
import { ROOT } from './lab.ts'

/**
 * The oldest Ferry that works beside this one. From here on a verdict may say nothing of an end frame that got lost;
 * whoever is older takes such a `Committed` for void, and two hosts could disagree on who runs the guest (I3). The
 * stream, its digest and the movers are there as well.
 */
export const OLDEST = 'c18cd032'

const ROOMS = ['schemas', 'events', 'coordinator', 'host-agent']
const run = promisify(execFile)

/** Whether this clone has the history that it takes; a shallow one has not. */
export const isKept = (commit: string): Promise<boolean> =>
  run('git', ['cat-file', '-e', `${commit}^{commit}`], { cwd: ROOT }).then(
    () => true,
    () => false,
  )

/**
 * The Ferry of a commit in a folder of its own, taken from this repository's history, with the packages that are
 * installed here. It stays there for the next time.
 *
 * @returns the folder, where `node ferry.mjs` runs it.
 */
export async function releaseOf(commit: string): Promise<string> {
  const kept = join(ROOT, 'node_modules', '.cache', 'ferry', 'releases')
  const folder = join(kept, commit)
  if (await isThere(folder)) return folder
  await mkdir(kept, { recursive: true })
  const fresh = await mkdtemp(`${folder}-`)
  try {
    const archive = join(fresh, 'archive.tar')
    await run('git', ['archive', '-o', archive, commit], { cwd: ROOT })
    await run('tar', ['-xf', archive, '-C', fresh])
    await rm(archive)
    for (const room of ['.', ...ROOMS]) await linkPackages(fresh, room)
    await rename(fresh, folder)
  } catch (error) {
    await rm(fresh, { recursive: true, force: true })
    if (!(await isThere(folder))) throw error
  }
  return folder
}

/** What a room of the release depends on: its own rooms, and the packages that this one's room or root has. */
async function linkPackages(folder: string, room: string): Promise<void> {
  const manifest: unknown = JSON.parse(await readFile(join(folder, room, 'package.json'), 'utf8'))
  const { dependencies = {} } = manifest as { dependencies?: { [name: string]: string } }
  for (const name of Object.keys(dependencies)) {
    const link = join(folder, room, 'node_modules', name)
    await mkdir(dirname(link), { recursive: true })
    const own = /^@ferry\/(.+)$/.exec(name)?.[1]
    await symlink(
      own === undefined ? await installed(room, name) : relative(dirname(link), join(folder, own)),
      link,
    )
  }
}

async function installed(room: string, name: string): Promise<string> {
  const places = [room, '.'].map((each) => join(ROOT, each, 'node_modules', name))
  for (const place of places) if (await isThere(place)) return realpath(place)
  throw new Error(`${name}, which that release needs in ${room}, is not installed here`)
}

const isThere = (path: string): Promise<boolean> =>
  realpath(path).then(
    () => true,
    () => false,
  )

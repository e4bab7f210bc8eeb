import { execFile } from 'node:child_process'
import { mkdir, open, readFile, rm, stat, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { Type } from 'typebox'
import type { Static } from 'typebox'
import { parse } from '@ferry/schemas/parse'
import type { HostRefusal } from '@ferry/schemas/refusal'
import { onDisk, unlessMissing, writeWhole } from '../whole-file.ts'
import type { DiskToBring } from './disks.ts'
import { giveToGuests } from './images.ts'

/**
 * The image files of disks that travel with their guest, as a host remembers them beside it. A file that is not known
 * from here is somebody's, and is never written over nor removed.
 *
 *     made   for a copy that has never run: they go with it, or become the guest's when it runs
 *     sent   of a guest that is being sent away
 *     left   behind by a guest that went away with their content: it may have its place back when it comes again
 *
 * A file is known by its device and number; one that is about to be made has none yet.
 */
const Known = Type.Object({ path: Type.String(), file: Type.String() })
const ABOUT_TO_BE = ''
const Left = Type.Object({ ...Known.properties, changedAt: Type.Number() })
const Notes = Type.Object({
  made: Type.Array(Known),
  sent: Type.Array(Type.String()),
  left: Type.Array(Left),
})
type Notes = Static<typeof Notes>

const nothing: Notes = { made: [], sent: [], left: [] }
const NOTES = 'disks.json'
const QEMU_IMG_MS = 60_000

/** Makes an empty image for each. What is in the way is named, and then nothing has been touched. */
export async function makeImages(
  folder: string,
  disks: readonly DiskToBring[],
): Promise<HostRefusal | undefined> {
  await dropImages(folder)
  const { left } = await notesIn(folder)
  const outOfDate: string[] = []
  for (const { path } of disks) {
    const home = dirname(path)
    if ((await seen(home)) === undefined) return { type: 'FileMissing', path: home }
    const there = await seen(path)
    if (there === undefined) continue
    if (!left.some((each) => each.path === path && isThat(each, there)))
      return { type: 'DiskInTheWay', path }
    outOfDate.push(path)
  }
  for (const path of outOfDate) await rm(path, { force: true })
  const noRoom = await checkRoom(disks)
  if (noRoom !== undefined) return noRoom
  const made: Notes['made'] = []
  for (const { path, format, sizeBytes } of disks) {
    await note(folder, { ...nothing, made: [...made, { path, file: ABOUT_TO_BE }] })
    await (await open(path, 'wx', 0o600)).close()
    made.push({ path, file: (await seen(path))?.file ?? ABOUT_TO_BE })
    await note(folder, { ...nothing, made })
    try {
      const words = ['create', '-q', '-f', format, path, String(sizeBytes)]
      await promisify(execFile)('qemu-img', words, { timeout: QEMU_IMG_MS })
    } catch (error) {
      await dropImages(folder)
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT')
        return { type: 'ToolMissing', tool: 'qemu-img' }
      return {
        type: 'HypervisorFailed',
        message: error instanceof Error ? error.message : String(error),
      }
    }
    await giveToGuests(path)
    await onDisk(path)
    await onDisk(dirname(path))
  }
  return undefined
}

/** The copy that they were made for has ended, and never ran. */
export async function dropImages(folder: string): Promise<undefined> {
  const notes = await notesIn(folder)
  if (notes.made.length === 0) return undefined
  for (const { path, file } of notes.made) {
    const there = await seen(path)
    const isIt = file === ABOUT_TO_BE ? there?.isEmpty === true : there?.file === file
    if (isIt) await rm(path, { force: true })
  }
  await note(folder, { ...notes, made: [] })
  return undefined
}

/** The guest runs, and they are its disks. */
export async function keepImages(folder: string): Promise<void> {
  const notes = await notesIn(folder)
  if (notes.made.length > 0) await note(folder, { ...notes, made: [] })
}

export async function noteSent(folder: string, sent: readonly string[]): Promise<void> {
  const notes = await notesIn(folder)
  if (notes.sent.length > 0 || sent.length > 0) await note(folder, { ...notes, sent: [...sent] })
}

/** The guest has ended here, and lives elsewhere. */
export async function noteLeft(folder: string): Promise<void> {
  const { made, sent } = await notesIn(folder)
  const paths = [...sent, ...made.map(({ path }) => path)]
  if (paths.length === 0) return
  const left: Notes['left'] = []
  for (const path of paths) {
    const there = await seen(path)
    if (there !== undefined) left.push({ path, file: there.file, changedAt: there.changedAt })
  }
  await note(folder, { ...nothing, left })
}

type Seen = { readonly file: string; readonly isEmpty: boolean; readonly changedAt: number }

const isThat = (left: Notes['left'][number], there: Seen): boolean =>
  left.file === there.file && left.changedAt === there.changedAt

/** One that is made anew under the same name is another file. */
async function seen(path: string): Promise<Seen | undefined> {
  const there = await unlessMissing(() => stat(path, { bigint: true }))
  if (there === undefined) return undefined
  const { dev, ino, size, mtimeMs } = there
  return { file: `${dev}:${ino}`, isEmpty: size === 0n, changedAt: Number(mtimeMs) }
}

/** On each file system for all that is to come there. */
async function checkRoom(disks: readonly DiskToBring[]): Promise<HostRefusal | undefined> {
  const wanted = new Map<bigint, number>()
  for (const { path, usedBytes } of disks) {
    const home = dirname(path)
    const { dev } = await stat(home, { bigint: true })
    const neededBytes = (wanted.get(dev) ?? 0) + usedBytes
    wanted.set(dev, neededBytes)
    const { bavail, bsize } = await statfs(home)
    const freeBytes = bavail * bsize
    if (neededBytes > freeBytes)
      return { type: 'NotEnoughStorage', path: home, neededBytes, freeBytes }
  }
  return undefined
}

async function notesIn(folder: string): Promise<Notes> {
  const file = join(folder, NOTES)
  const text = await unlessMissing(() => readFile(file, 'utf8'))
  return text === undefined ? nothing : parse(Notes, JSON.parse(text), file)
}

async function note(folder: string, notes: Notes): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  await writeWhole(join(folder, NOTES), JSON.stringify(notes))
}

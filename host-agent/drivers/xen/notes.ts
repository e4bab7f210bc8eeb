import { mkdir, readFile, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Type } from 'typebox'
import type { Static } from 'typebox'
import { GuestNeeds, MadeFor } from '@ferry/schemas/guest'
import { parse } from '@ferry/schemas/parse'
import { Name } from '@ferry/schemas/words'
import { folderOf } from '../../folders.ts'
import { unlessMissing, writeWhole } from '../whole-file.ts'

/**
 * What Xen cannot be asked about a copy that was made to receive a guest: for which attempt, and whether all of it is
 * there. It stands in a file until the copy has been started; before the first byte there is nothing else.
 *
 *     guests/<vm>/copy.json    xl.pid    image.fifo
 */
const Note = Type.Object({
  vm: Name,
  receives: MadeFor,
  needs: GuestNeeds,
  isLoaded: Type.Boolean(),
})
export type Note = Static<typeof Note>

export type Notes<Its = Note> = {
  readonly all: () => Promise<Its[]>
  readonly of: (vm: string) => Promise<Its | undefined>
  /** Whole or not at all. */
  readonly write: (note: Its) => Promise<void>
  readonly forget: (vm: string) => Promise<void>
  /** The guest's own, made when it is first asked for. */
  readonly folder: (vm: string) => Promise<string>
}

const FILE = 'copy.json'

export const openNotes = (guests: string): Notes =>
  notesIn(guests, (value, file) => parse(Note, value, file))

/** @param read checks what stands in a file. */
export function notesIn<Its extends { readonly vm: string }>(
  guests: string,
  read: (value: unknown, file: string) => Its,
): Notes<Its> {
  const noteIn = async (of: string) => {
    const file = join(of, FILE)
    const text = await unlessMissing(() => readFile(file, 'utf8'))
    return text === undefined ? undefined : read(JSON.parse(text), file)
  }
  const folder = async (vm: string) => {
    const path = folderOf(guests, vm)
    await mkdir(path, { recursive: true, mode: 0o700 })
    return path
  }
  return {
    folder,
    all: async () => {
      const names = await unlessMissing(() => readdir(guests))
      const notes = await Promise.all((names ?? []).map((name) => noteIn(join(guests, name))))
      return notes.filter((note) => note !== undefined)
    },
    of: (vm) => noteIn(folderOf(guests, vm)),
    write: async (note) => {
      const file = join(await folder(note.vm), FILE)
      await writeWhole(file, JSON.stringify(note))
    },
    forget: (vm) => rm(folderOf(guests, vm), { recursive: true, force: true }),
  }
}

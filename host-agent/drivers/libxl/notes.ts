import { Type } from 'typebox'
import type { Static } from 'typebox'
import { GuestNeeds, MadeFor } from '@ferry/schemas/guest'
import { parse } from '@ferry/schemas/parse'
import { Name, Port } from '@ferry/schemas/words'
import { notesIn } from '../xen/notes.ts'
import type { Notes } from '../xen/notes.ts'

/**
 * What libvirtd cannot be asked about a copy that was made to receive a guest. It stands in a file until the copy has been
 * started.
 *
 *     guests/<vm>/copy.json    performs    through
 */
const Note = Type.Object({
  vm: Name,
  receives: MadeFor,
  needs: GuestNeeds,
  /** Where libvirtd waits for the image. */
  port: Port,
  /** Somebody has come there, or is about to: nobody else may. */
  isVisited: Type.Boolean(),
  /** As it is to be defined here once it runs; absent: it was not defined where it came from either. */
  persistentXml: Type.Optional(Type.String({ minLength: 1 })),
})
export type LibxlNote = Static<typeof Note>

export type LibxlNotes = Notes<LibxlNote>

export const openLibxlNotes = (guests: string): LibxlNotes =>
  notesIn(guests, (value, file) => parse(Note, value, file))

import type { GuestState } from '@ferry/schemas/guest'
import { roleOf } from './handshake.ts'
import type { Domain } from './listing.ts'
import type { Note } from './notes.ts'

/**
 * What a host has of one guest: decided by what is there, whoever made it and whoever has died since.
 *
 * | there is                          | that is   | because                                                          |
 * | --------------------------------- | --------- | ---------------------------------------------------------------- |
 * | NAME running                      | running   |                                                                  |
 * | NAME paused                       | paused    | by an operator, or `xl save -p` is through and was not yet taken for sent |
 * | NAME suspended                    | paused    | its last memory is on its way; or the xl that suspended it was killed |
 * | NAME--migratedaway suspended, paused | sent   | xl had sent all, and was answered that all was loaded           |
 * | NAME--migratedaway running        | running   | it was resumed, and not yet renamed                              |
 * | a note, no domain                 | receiving | nothing has come; or the xl that loaded it ended it             |
 * | NAME--incoming paused             | receiving | is being loaded; or the xl that loaded it was killed            |
 * | the same, and the note says so    | loaded    |                                                                  |
 * | NAME--incoming running            | running   | it was started, and not yet renamed                              |
 *
 * What ends when the process that plays the other end for an xl dies, at each step:
 *
 * | on the source                     | its xl                                   | so there is                   |
 * | --------------------------------- | ---------------------------------------- | ----------------------------- |
 * | while it copies                   | gives up: nobody takes its image         | NAME running                  |
 * | suspended, before "ready"         | hears nothing more, and resumes it       | NAME running                  |
 * | after "ready"                     | renames it, and gives up                 | NAME--migratedaway suspended  |
 *
 * | on the target                     | its xl                                   | so there is                   |
 * | --------------------------------- | ---------------------------------------- | ----------------------------- |
 * | before "ready"                    | hears the end of the image, ends the copy | the note                     |
 * | after "ready", before xl was ended | hears the end instead of "go", ends the copy | the note                  |
 * | xl was ended, the note not written | is gone                                 | NAME--incoming paused: not loaded, another attempt |
 * | the note was written              | is gone                                  | NAME--incoming paused: loaded |
 */
export type Copy = {
  readonly vm: string
  readonly state: GuestState
  readonly domain: Domain | undefined
  readonly note: Note | undefined
}

/** Every copy on a host. */
export function copiesOf(domains: readonly Domain[], notes: readonly Note[]): Copy[] {
  const names = new Set([
    ...domains.map(({ name }) => roleOf(name).vm),
    ...notes.map(({ vm }) => vm),
  ])
  return [...names].flatMap(
    (vm) =>
      copyOf(
        vm,
        domains,
        notes.find((note) => note.vm === vm),
      ) ?? [],
  )
}

export function copyOf(
  vm: string,
  domains: readonly Domain[],
  note: Note | undefined,
): Copy | undefined {
  const its = (wanted: string) =>
    domains.find(({ name }) => {
      const { vm: whose, role } = roleOf(name)
      return whose === vm && role === wanted
    })
  const home = its('home')
  if (home !== undefined)
    return { vm, domain: home, note, state: home.state === 'running' ? 'running' : 'paused' }
  const coming = its('incoming')
  if (coming !== undefined) {
    const waits = note?.isLoaded === true ? 'loaded' : 'receiving'
    return { vm, domain: coming, note, state: coming.state === 'running' ? 'running' : waits }
  }
  const away = its('away')
  if (away !== undefined)
    return { vm, domain: away, note, state: away.state === 'running' ? 'running' : 'sent' }
  return note === undefined ? undefined : { vm, domain: undefined, note, state: 'receiving' }
}

/** The attempt that it was made for, as long as it has never been started. */
export const madeFor = ({ state, note }: Copy) =>
  state === 'receiving' || state === 'loaded' ? note?.receives : undefined

import type { GuestState } from '@ferry/schemas/guest'
import type { Domain } from '../libvirt/procedures.ts'
import { DomainState } from '../libvirt/words.ts'
import type { Domain as XenDomain } from '../xen/listing.ts'
import type { LibxlNote } from './notes.ts'

/** What three know of one guest: libvirtd, Xen itself, and this host's own files. */
export type Seen = {
  /** Absent: libvirtd knows nothing of it. */
  readonly domain: Domain | undefined
  /** As libvirtd numbers it. */
  readonly state: number | undefined
  readonly inXen: XenDomain | undefined
  readonly note: LibxlNote | undefined
  /** Ferry has told libvirtd to send it away, and it has not been released or resumed since. */
  readonly isOurs: boolean
}

export type Copy = Seen & { readonly vm: string; readonly is: GuestState }

/**
 * What a host has of one guest. libvirtd says nothing of a guest that Xen has suspended, for it runs by its own books; so
 * Xen is asked who runs, and libvirtd whether a copy has been loaded.
 *
 * | there is                                  | that is   | because                                             |
 * | ----------------------------------------- | --------- | --------------------------------------------------- |
 * | no note, running in Xen                   | running   |                                                     |
 * | no note, paused in Xen                    | paused    | by an operator                                      |
 * | no note, suspended, and it is ours        | sent      | its last memory is on its way, or all of it is out  |
 * | no note, suspended, and it is not         | paused    | somebody else saves or sends it                     |
 * | no note, nothing in Xen                   | nothing   | it may be defined                                   |
 * | a note, running in Xen                    | running   | it was started, and the note has not gone yet       |
 * | a note, libvirtd says paused              | loaded    | libvirtd says so when all of it is there            |
 * | a note, anything else                     | receiving | libvirtd waits for it, loads it, or has forgotten it |
 *
 * What ends when the process dies that feeds libvirtd, or is fed by it:
 *
 * | on the source                  | its libvirtd                                  | so there is                        |
 * | ------------------------------ | --------------------------------------------- | ---------------------------------- |
 * | between Begin and Perform      | holds its job for ever                        | running: `settle` ends the job     |
 * | while it copies                | gives up: nobody takes its image              | running                            |
 * | suspended, before the end      | gives up, and leaves the guest suspended      | sent: `settle` lets it run on      |
 * | Perform has ended              | holds its job for ever                        | sent, whole                        |
 *
 * | on the target                  | its libvirtd                                  | so there is                        |
 * | ------------------------------ | --------------------------------------------- | ---------------------------------- |
 * | before the end of the image    | ends what it has loaded, and holds its job    | receiving: `clear` calls Finish    |
 * | behind it, before Finish       | holds its job for ever                        | loaded: `activate` calls Finish    |
 */
export function stateOf({ domain, state, inXen, note, isOurs }: Seen): GuestState | undefined {
  if (note !== undefined) {
    if (inXen?.state === 'running') return 'running'
    return state === DomainState.paused ? 'loaded' : 'receiving'
  }
  if (domain === undefined || inXen === undefined) return undefined
  if (inXen.state === 'suspended') return isOurs ? 'sent' : 'paused'
  return inXen.state === 'running' ? 'running' : 'paused'
}

/** The attempt that it was made for, as long as it has never been started. */
export const madeFor = ({ is, note }: Copy) =>
  is === 'receiving' || is === 'loaded' ? note?.receives : undefined

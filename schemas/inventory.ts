import { Type } from 'typebox'
import type { Static } from 'typebox'
import { GuestNeeds, GuestState, MadeFor } from './guest.ts'
import { HostRefusal } from './refusal.ts'
import { Name } from './words.ts'

/** One guest in a host's inventory. */
export const GuestReport = Type.Object({
  vm: Name,
  state: GuestState,
  needs: GuestNeeds,
  receives: Type.Optional(MadeFor),
  /** What its host would refuse to begin for, as things are; of a running guest, where a hypervisor can tell beforehand. */
  unmovable: Type.Optional(HostRefusal),
})
export type GuestReport = Static<typeof GuestReport>

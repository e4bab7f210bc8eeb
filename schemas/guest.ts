import { Type } from 'typebox'
import type { Static } from 'typebox'
import { Bytes, Id } from './words.ts'

/**
 * What a copy of a guest is doing on a host, as its hypervisor says.
 * `sent`: paused and whole, its image has left (QEMU's postmigrate).
 * `receiving`: made to be loaded, not started. `loaded`: the whole image is there, never started.
 */
export const GuestState = Type.Union([
  Type.Literal('running'),
  Type.Literal('paused'),
  Type.Literal('sent'),
  Type.Literal('receiving'),
  Type.Literal('loaded'),
  Type.Literal('unresponsive'),
])
export type GuestState = Static<typeof GuestState>

/** What a guest needs of a host, so that a target can be chosen and a wrong one refused. */
export const GuestNeeds = Type.Object({
  memoryBytes: Bytes,
  vcpus: Type.Integer({ minimum: 1 }),
  hypervisor: Type.String(),
  machine: Type.String(),
  cpu: Type.String(),
  accelerator: Type.String(),
})
export type GuestNeeds = Static<typeof GuestNeeds>

/** The attempt that a copy was made for: it stands at the copy as long as that has never been started. */
export const MadeFor = Type.Object({ migration: Id, attempt: Type.Integer({ minimum: 1 }) })
export type MadeFor = Static<typeof MadeFor>

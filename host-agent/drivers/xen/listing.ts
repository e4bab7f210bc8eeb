import { Type } from 'typebox'
import type { Static } from 'typebox'
import type { GuestNeeds } from '@ferry/schemas/guest'
import { parse } from '@ferry/schemas/parse'

/** What `xl` prints, in our words. */
export type Domain = {
  readonly domid: number
  readonly name: string
  readonly state: DomainState
}

/** `suspended` is shut down for this one reason: to be saved or sent; `ended`: for any other. */
export type DomainState = 'running' | 'paused' | 'suspended' | 'ended'

/**
 * `xl list`: a name of any length, and five more columns. The fourth is six letters: runs, waits, paused, shut down, what
 * for, dying (`tools/xl/xl_list.c`).
 */
export function domainsIn(text: string): Domain[] {
  return text.split('\n').flatMap((line) => {
    const [, name = '', id, flags = ''] = ROW.exec(line) ?? []
    const state = stateOf(flags)
    if (id === undefined || id === '0' || state === undefined) return []
    return [{ domid: Number(id), name: name.trim(), state }]
  })
}

const ROW = /^(.+?)\s+(\d+)\s+\d+\s+\d+\s+(\S{6})\s+[\d.]+\s*$/

/** @returns undefined for one that is going. */
function stateOf(flags: string): DomainState | undefined {
  if (flags[5] === 'd' || flags === '') return undefined
  if (flags[3] === 's') return flags[4] === 's' ? 'suspended' : 'ended'
  return flags[2] === 'p' ? 'paused' : 'running'
}

const Listed = Type.Array(
  Type.Object({
    domid: Type.Integer(),
    config: Type.Object({
      c_info: Type.Object({
        type: Type.Optional(Type.String()),
        name: Type.Optional(Type.String()),
      }),
      b_info: Type.Object({
        max_vcpus: Type.Optional(Type.Integer()),
        max_memkb: Type.Optional(Type.Integer()),
        shadow_memkb: Type.Optional(Type.Integer()),
      }),
      disks: Type.Optional(Type.Array(Type.Object({ pdev_path: Type.Optional(Type.String()) }))),
      pcidevs: Type.Optional(Type.Array(Type.Unknown())),
    }),
  }),
)
export type Config = Static<typeof Listed>[number]['config']

const KIBIBYTE = 1024

/** `xl list -l`: what each guest was made as, by its domain's number. */
export function configsIn(text: string): ReadonlyMap<number, Config> {
  const listed = parse(Listed, JSON.parse(text), 'what `xl list -l` says')
  return new Map(listed.map(({ domid, config }) => [domid, config]))
}

/** Xen compares the processors itself when a guest is loaded; the rest is what has to fit. */
export function needsOf({ c_info, b_info }: Config): GuestNeeds {
  const { max_vcpus: vcpus = 1, max_memkb: memory = 0, shadow_memkb: shadow = 0 } = b_info
  return {
    memoryBytes: (memory + shadow) * KIBIBYTE,
    vcpus,
    hypervisor: 'xen',
    machine: c_info.type ?? 'pv',
    cpu: 'host',
    accelerator: 'xen',
  }
}

/** `xl info`: a word for each line, a colon and its value. */
export function infoIn(text: string): ReadonlyMap<string, string> {
  return new Map(
    text.split('\n').flatMap((line) => {
      const colon = line.indexOf(':')
      return colon === -1 ? [] : [[line.slice(0, colon).trim(), line.slice(colon + 1).trim()]]
    }),
  )
}

/** The name in a guest's file of xl's form. */
export const nameIn = (file: string): string | undefined =>
  /^[ \t]*name[ \t]*=[ \t]*(["'])(.*?)\1/m.exec(file)?.[2]

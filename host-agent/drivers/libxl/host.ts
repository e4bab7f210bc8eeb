import type { Clock } from '@ferry/events/clock'
import { folderOf } from '../../folders.ts'
import { unlessGone } from '../libvirt/daemon.ts'
import type { Daemon } from '../libvirt/daemon.ts'
import { isOurs } from '../libvirt/other-hand.ts'
import { procedures } from '../libvirt/procedures.ts'
import type { Domain } from '../libvirt/procedures.ts'
import { Listing } from '../libvirt/words.ts'
import type { Domain as XenDomain } from '../xen/listing.ts'
import type { Xl } from '../xen/xl.ts'
import { stateOf } from './copy.ts'
import type { Copy } from './copy.ts'
import type { LibxlNote, LibxlNotes } from './notes.ts'

/** Everybody on this host who knows something of its guests. */
export type LibxlHost = {
  readonly clock: Clock
  readonly daemon: Daemon
  readonly xl: Xl
  readonly notes: LibxlNotes
  readonly look: (vm: string) => Promise<Copy | undefined>
  readonly all: () => Promise<Copy[]>
  readonly inXen: (vm: string) => Promise<XenDomain | undefined>
  /** libvirtd is at something with it, or waits for the phase that comes next. */
  readonly hasJob: (domain: Domain) => Promise<boolean>
}

export function openLibxlHost(parts: {
  readonly daemon: Daemon
  readonly xl: Xl
  readonly notes: LibxlNotes
  readonly guests: string
}): LibxlHost {
  const { daemon, xl, notes, guests } = parts

  const copyOf = async (
    vm: string,
    domain: Domain | undefined,
    inXen: XenDomain | undefined,
    note: LibxlNote | undefined,
  ): Promise<Copy | undefined> => {
    const state =
      domain &&
      (await unlessGone(async () => {
        const libvirt = await daemon.libvirt()
        return (await libvirt.call(procedures.state, { domain, flags: 0 })).state
      }))
    const seen = { domain, state, inXen, note, isOurs: await isOurs(folderOf(guests, vm)) }
    const is = stateOf(seen)
    return is && { ...seen, vm, is }
  }
  const inXen = async (vm: string) => (await xl.domains()).find(({ name }) => name === vm)

  return {
    clock: daemon.clock,
    daemon,
    xl,
    notes,
    inXen,
    look: async (vm) => {
      const [domain, its, note] = await Promise.all([daemon.find(vm), inXen(vm), notes.of(vm)])
      return copyOf(vm, domain, its, note)
    },
    all: async () => {
      const libvirt = await daemon.libvirt()
      const [{ domains }, xens, all] = await Promise.all([
        libvirt.call(procedures.domains, { wantsResults: 1, flags: Listing.all }),
        xl.domains(),
        notes.all(),
      ])
      const names = new Set([...domains.map(({ name }) => name), ...all.map(({ vm }) => vm)])
      const copies = await Promise.all(
        [...names].map((vm) => {
          const isIts = ({ name }: { readonly name: string }) => name === vm
          const note = all.find((each) => each.vm === vm)
          return copyOf(vm, domains.find(isIts), xens.find(isIts), note)
        }),
      )
      return copies.filter((copy) => copy !== undefined)
    },
    hasJob: async (domain) => (await daemon.jobOn(domain)) !== undefined,
  }
}

import { CopyFailed, NeverStarted } from '../../driver.ts'
import type { Moves } from '../../driver.ts'
import { folderOf } from '../../folders.ts'
import { unlessGone } from '../libvirt/daemon.ts'
import { needsIn, valuesAt } from '../libvirt/domain-xml.ts'
import { byOtherHand, whatElse } from '../libvirt/other-hand.ts'
import { procedures } from '../libvirt/procedures.ts'
import type { Domain } from '../libvirt/procedures.ts'
import { LibvirtError } from '../libvirt/rpc.ts'
import { Description, MigrateFlag } from '../libvirt/words.ts'
import { madeFor } from './copy.ts'
import type { Copy } from './copy.ts'
import type { LibxlHost } from './host.ts'
import { perform } from './perform.ts'
import { finish, receive, visitInVain } from './receive.ts'
import { settle } from './settle.ts'

/** What can be done with guests that are here already. */
export function libxlMoves(host: LibxlHost, guests: string): Moves {
  const { clock, daemon, notes, xl, look, hasJob } = host

  /** Ends a copy as the end of a migration, if libvirtd still holds that it is one; else as any guest. */
  async function endSent({ is, domain }: Copy): Promise<void> {
    if (domain === undefined) return
    if (is !== 'sent' || !(await hasJob(domain))) return daemon.end(domain)
    const libvirt = await daemon.libvirt()
    await unlessGone(() =>
      libvirt.call(procedures.confirm, {
        domain,
        parameters: [],
        cookie: '',
        flags: MigrateFlag.live,
        isCancelled: 0,
      }),
    )
  }

  async function undefine(domain: Domain): Promise<void> {
    const libvirt = await daemon.libvirt()
    await unlessGone(() => libvirt.call(procedures.undefine, { domain, flags: 0 }))
  }

  return {
    inspect: async () => {
      const copies = await host.all()
      const told = await Promise.all(
        copies.map(async (copy) => {
          const needs = copy.note?.needs ?? (copy.domain && (await needsOf(copy.domain, host)))
          // One that came or went while it was asked for is told of the next time.
          if (needs === undefined) return []
          const receives = madeFor(copy)
          const { vm, is: state } = copy
          return [{ vm, state, needs, ...(receives === undefined ? {} : { receives }) }]
        }),
      )
      return told.flat()
    },

    perform: async (vm, order) => {
      const here = await look(vm)
      const xml = here?.domain && (await xmlOf(here.domain, daemon))
      if (here?.domain === undefined || here.inXen === undefined || xml === undefined)
        throw new CopyFailed({ type: 'GuestGone', vm })
      const { domain, inXen, is, isOurs } = here
      const isBusy = await hasJob(domain)
      if (isBusy && !isOurs) throw byOtherHand(whatElse.other)
      // Another process began it: what it sent, and to whom, nobody knows any more.
      if (is !== 'running' || isBusy) throw new CopyFailed({ type: 'AgentRestarted' })
      const leaver = { memoryBytes: needsInXen(xml).memoryBytes, disks: disksIn(xml) }
      await notes.forget(vm)
      return perform({ domain, inXen, ...leaver }, order, host, folderOf(guests, vm))
    },

    receive: async (vm, order) => {
      const here = await look(vm)
      if (here === undefined) throw new CopyFailed({ type: 'GuestGone', vm })
      const { note, is, domain } = here
      if (note === undefined || is !== 'receiving' || domain === undefined || note.isVisited)
        throw new CopyFailed({ type: 'AgentRestarted' })
      return receive(note, order, host)
    },

    activate: async (vm) => {
      const here = await look(vm)
      if (here === undefined) throw new NeverStarted({ type: 'GuestGone', vm })
      const { domain, is, note } = here
      if (domain === undefined || is === 'receiving')
        throw new NeverStarted({ type: 'HypervisorFailed', message: 'not all of it came' })
      const libvirt = await daemon.libvirt()
      if (is !== 'running') {
        if (await hasJob(domain)) await finish(vm, libvirt, 'loaded')
        await libvirt.call(procedures.resume, { domain })
      }
      const runningAt = clock.now()
      if (note?.persistentXml !== undefined)
        await libvirt.call(procedures.define, { xml: note.persistentXml, flags: 0 })
      await notes.forget(vm)
      return { runningAt }
    },

    release: async (vm) => {
      const here = await look(vm)
      if (here !== undefined) await endSent(here)
      await notes.forget(vm)
      // What is still defined here could be started here again, while the guest runs where it is defined now.
      const left = await daemon.find(vm)
      if (left !== undefined) await undefine(left)
    },

    resume: async (vm) => {
      const here = await look(vm)
      // What somebody starts here later is not Ferry's to stop.
      if (here?.inXen === undefined) await notes.forget(vm)
      if (here?.domain === undefined || here.inXen === undefined) return undefined
      const { domain } = here
      const wasPaused = here.is !== 'running'
      if (here.isOurs) await settle(domain, host, folderOf(guests, vm))
      await notes.forget(vm)
      const now = await host.inXen(vm)
      // One that has crashed, or shut itself down, is no guest any more.
      if (now === undefined || now.state === 'ended') return undefined
      const answer = { wasPaused, runningAt: clock.now() }
      return now.state === 'running' ? answer : { ...answer, leftPaused: true }
    },

    clear: async (vm) => {
      const here = await look(vm)
      // D6: a copy without its note has run, or may have.
      if (here === undefined || madeFor(here) === undefined) return
      const { domain, note, inXen } = here
      if (domain !== undefined && (await hasJob(domain))) {
        if (note?.isVisited === false) await visitInVain(note.port, clock)
        await finish(vm, await daemon.libvirt(), 'ended').catch((error: unknown) => {
          if (!(error instanceof LibvirtError)) throw error
        })
      } else if (domain !== undefined && inXen !== undefined) await daemon.end(domain)
      // A libvirtd that ended while it loaded a copy knows nothing of it, and Xen still has it.
      const left = await host.inXen(vm)
      if (left?.state === 'paused') await xl.destroy(left)
      await notes.forget(vm)
    },

    close: daemon.close,
  }
}

export async function needsOf(domain: Domain, { daemon }: Pick<LibxlHost, 'daemon'>) {
  const xml = await xmlOf(domain, daemon)
  return xml === undefined ? undefined : needsInXen(xml)
}

export const xmlOf = (
  domain: Domain,
  daemon: LibxlHost['daemon'],
  flags: number = Description.secure,
): Promise<string | undefined> =>
  unlessGone(async () => {
    const libvirt = await daemon.libvirt()
    return (await libvirt.call(procedures.describe, { domain, flags })).xml
  })

/** Xen compares the processors itself when a guest is loaded; the rest is what has to fit. */
export const needsInXen = (xml: string) => ({
  ...needsIn(xml),
  hypervisor: 'libxl',
  cpu: 'host',
})

/** What its disks lie on. */
export const disksIn = (xml: string): string[] =>
  ['file', 'dev'].flatMap((attribute) => valuesAt(xml, ['devices', 'disk', 'source'], attribute))

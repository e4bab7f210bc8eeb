import { rm } from 'node:fs/promises'
import { freemem } from 'node:os'
import { Type } from 'typebox'
import type { Static } from 'typebox'
import type { GuestNeeds } from '@ferry/schemas/guest'
import { Policy } from '@ferry/schemas/policy'
import type { HostRefusal } from '@ferry/schemas/refusal'
import type { Versions } from '@ferry/schemas/versions'
import { Overdue, within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import type { Begun, Driver, Landing, Leave, Prepared } from '../../driver.ts'
import { folderOf } from '../../folders.ts'
import { readDefinition } from '../read-definition.ts'
import { isCode, openDaemon, unlessGone } from './daemon.ts'
import type { Looked } from './daemon.ts'
import { listening, reachedAt } from './directly.ts'
import { DiskToBring, bringing, disksToBring } from './disks.ts'
import { XmlInvalid, needsIn, withMark, writableDisksIn } from './domain-xml.ts'
import { letGo, makeHolder } from './holder.ts'
import { dropImages, makeImages } from './image-files.ts'
import { diskSocket, fits, imageSocket, openImages } from './images.ts'
import { libvirtMoves } from './moves.ts'
import type { LibvirtFolders } from './moves.ts'
import { isOurs, whatElse } from './other-hand.ts'
import type { LibvirtFacts } from './probe.ts'
import { procedures } from './procedures.ts'
import type { Parameter } from './procedures.ts'
import type { Libvirt } from './rpc.ts'
import { descriptionIn, failed, refusalOf, startFrom } from './start.ts'
import type { Ordered } from './way.ts'
import { Code, Description, MigrateFlag } from './words.ts'

/** Guests that belong to libvirtd: Ferry drives the phases of libvirt's own migration, one by one, on both hosts. */
export type LibvirtSettings = LibvirtFolders & {
  readonly socket: string
  /** Where the operator's descriptions stand, `<name>.xml`; a guest that is defined in libvirt needs none. */
  readonly definitions: string
  /** Where other hosts' QEMUs reach those of this one; absent: they may not. */
  readonly directAddress?: string
  readonly facts: LibvirtFacts
  readonly clock: Clock
}

/** What travels to the target, sealed: libvirt's description may hold passwords, and its cookie what is in it. */
const FirstDefinition = Type.Object(
  {
    memoryMiB: Type.Integer({ minimum: 1 }),
    xml: Type.String({ minLength: 1 }),
    cookie: Type.String(),
    persistentXml: Type.Optional(Type.String({ minLength: 1 })),
  },
  { additionalProperties: false },
)
/** Since the second version disks may come with their guest. */
const SecondDefinition = Type.Object(
  { ...FirstDefinition.properties, disks: Type.Array(DiskToBring) },
  { additionalProperties: false },
)
/** Since the third it may come from QEMU to QEMU. */
const ThirdDefinition = Type.Object(
  {
    ...SecondDefinition.properties,
    directConnections: Type.Optional(Policy.properties.directConnections),
  },
  { additionalProperties: false },
)
/** Since the fourth a part of it may come when it runs already. */
const Definition = Type.Object(
  { ...ThirdDefinition.properties, isPostCopy: Type.Optional(Type.Boolean()) },
  { additionalProperties: false },
)
type Definition = Static<typeof Definition>
const definitionVersions: Versions = { lowest: 1, highest: 4 }
const shapes = [FirstDefinition, SecondDefinition, ThirdDefinition, Definition] as const

const MEBIBYTE = 1024 ** 2
const { live, paused, postCopy } = MigrateFlag
/** libvirt itself starts QEMU in this time, or gives up. */
const PREPARE_MS = 60_000
/** A guest takes it a few milliseconds. */
const FORESEE_MS = 3000

export function libvirtDriver(settings: LibvirtSettings): Driver {
  const { definitions, facts, clock, images, guests, directAddress } = settings
  const daemon = openDaemon(settings.socket, clock)
  const { look } = daemon

  /** @returns why this host has no room, counting every guest that is here. */
  async function checkRoom(neededBytes: number): Promise<HostRefusal | undefined> {
    const used = (await daemon.all()).reduce((sum, { xml }) => sum + needsIn(xml).memoryBytes, 0)
    const freeBytes = Math.max(0, Math.min(facts.hypervisor.memoryBytes - used, freemem()))
    return neededBytes > freeBytes ? { type: 'NotEnoughMemory', neededBytes, freeBytes } : undefined
  }

  function checkMachine({ machine, accelerator, cpu }: GuestNeeds): HostRefusal | undefined {
    const { machines, accelerators, cpuModels } = facts.hypervisor
    if (!machines.includes(machine)) return { type: 'MachineUnsupported', machine }
    if (!accelerators.includes(accelerator)) return { type: 'AcceleratorUnsupported', accelerator }
    return cpuModels.includes(cpu) ? undefined : { type: 'CpuUnsupported', cpu }
  }

  /** Phase by phase as libvirt's own client does it, with its flags; and what QEMU sends goes through our sockets. */
  async function begun(
    { domain, xml: found }: Looked,
    libvirt: Libvirt,
    { definitionVersion = 1, copyDisks = false, directConnections, isPostCopy = false }: Leave = {},
  ): Promise<Begun> {
    if (!facts.canMigrateByPhases)
      return {
        refusal: {
          type: 'CapabilityMissing',
          capability: 'migration by phases with parameters',
          hypervisor: `libvirt ${facts.hypervisor.hypervisorVersion}`,
        },
      }
    const tooOld = (offered: number): Begun => ({
      refusal: { type: 'DefinitionVersionUnsupported', offered, supported: definitionVersion },
    })
    if (directConnections !== undefined && definitionVersion < 3) return tooOld(3)
    if (isPostCopy && definitionVersion < 4) return tooOld(4)
    if (isPostCopy && (directConnections !== 1 || copyDisks))
      return {
        refusal: failed(
          'post-copy is for an image that goes directly, over one connection, and without disks',
        ),
      }
    const describing = persistentXmlOf(domain, libvirt)
    // What libvirt has against that is said below, as a refusal.
    describing.catch(() => {})
    const [{ isOn }, job] = await Promise.all([
      libvirt.call(procedures.autostart, { domain }),
      daemon.jobOn(domain, libvirt),
    ])
    if (isOn !== 0) return { refusal: { type: 'StartsByItself', vm: domain.name } }
    if (job !== undefined && !(await isOurs(folderOf(guests, domain.name))))
      return { refusal: failed(whatElse[job]) }
    const beginWith = (targets: readonly string[]) =>
      libvirt.call(procedures.begin, {
        domain,
        parameters: bringing(targets),
        flags:
          live |
          (isPostCopy ? postCopy : paused) |
          (targets.length === 0 ? 0 : MigrateFlag.nonSharedDisk),
      })
    const written = async (
      { xml, cookie }: { readonly xml: string; readonly cookie: string },
      disks: readonly DiskToBring[],
    ): Promise<Begun> => {
      const needs = needsIn(found)
      const persistentXml = await describing
      const first: Static<typeof FirstDefinition> = {
        memoryMiB: Math.ceil(needs.memoryBytes / MEBIBYTE),
        xml,
        cookie,
        ...(persistentXml === undefined ? {} : { persistentXml }),
      }
      const definition = {
        ...first,
        ...(definitionVersion === 1 ? {} : { disks }),
        ...(directConnections === undefined ? {} : { directConnections }),
        ...(isPostCopy ? { isPostCopy } : {}),
      }
      return { needs, definition: JSON.stringify(definition) }
    }
    try {
      return await written(await beginWith([]), [])
    } catch (error) {
      if (!isCode(error, Code.migrateUnsafe)) return { refusal: refusalOf(error) }
      const writable = writableDisksIn(found)
      const path = writable.map(({ place }) => place).join(', ')
      if (path === '') return { refusal: refusalOf(error) }
      if (!copyDisks) return { refusal: { type: 'DiskUnmovable', path, why: whyUnmovable(error) } }
    }
    if (definitionVersion === 1) return tooOld(2)
    try {
      const disks = await disksToBring(found, domain, libvirt, beginWith)
      if (!Array.isArray(disks)) return { refusal: disks }
      return await written(await beginWith(disks.map(({ target }) => target)), disks)
    } catch (error) {
      return { refusal: refusalOf(error) }
    }
  }

  async function persistentXmlOf(
    domain: Looked['domain'],
    libvirt: Libvirt,
  ): Promise<string | undefined> {
    const { isPersistent } = await libvirt.call(procedures.isPersistent, { domain })
    if (isPersistent === 0) return undefined
    const flags = Description.secure | Description.inactive
    return (await libvirt.call(procedures.describe, { domain, flags })).xml
  }

  /**
   * libvirt's Prepare, and at once its Finish: that one waits in libvirtd until all is loaded and then leaves the guest
   * paused, whoever is still there. Without it libvirtd would end the copy with the connection that prepared it. Where disks
   * come as well it would end them too early, and behind post-copy it would start the guest: then that connection is kept
   * open until it may be asked for.
   */
  async function land(landing: Landing, definition: Definition) {
    const { vm, migration, attempt } = landing
    if (vm.includes('/')) return failed('libvirt knows no names with a slash')
    if (!fits(images, vm))
      return failed(`the name of the guest is too long for a socket: ${diskSocket(images, vm)}`)
    const { memoryMiB: _, cookie: said, xml, disks, directConnections, ...more } = definition
    const { isPostCopy = false } = more
    const comesDirectly = directConnections !== undefined
    if (comesDirectly && directAddress === undefined)
      return {
        type: 'CapabilityMissing' as const,
        capability: 'receiving an image directly (libvirt.directAddress in host.json)',
        hypervisor: facts.hypervisor.hypervisor,
      }
    const folder = folderOf(guests, vm)
    const bringsDisks = disks.length > 0
    const inTheWay = bringsDisks ? await makeImages(folder, disks) : await dropImages(folder)
    if (inTheWay !== undefined) return inTheWay
    const path = imageSocket(images, vm)
    const diskPath = diskSocket(images, vm)
    await Promise.all([
      openImages(images),
      ...[path, diskPath].map((each) => rm(each, { force: true })),
    ])
    const marked = withMark(xml, { migration, attempt, bringsDisks, comesDirectly, ...more })
    const way =
      directAddress !== undefined && directConnections !== undefined
        ? listening(directAddress, directConnections, isPostCopy)
        : listeningAt(path, bringsDisks ? diskPath : undefined)
    const parameters: Parameter[] = [
      ...way.parameters,
      { field: 'destination_xml', is: 'string', value: marked },
      { field: 'destination_name', is: 'string', value: vm },
      ...bringing(disks.map(({ target }) => target)),
    ]
    const flags = live | way.flags | (bringsDisks ? MigrateFlag.nonSharedDisk : 0)
    const libvirt = await daemon.fresh()
    try {
      const { cookie, uri } = await libvirt.call(
        procedures.prepare,
        { parameters, cookie: said, flags },
        PREPARE_MS,
      )
      if (bringsDisks || isPostCopy) {
        const descriptor = libvirt.descriptor()
        if (descriptor === undefined) throw new Error('the connection cannot be kept open')
        await (await makeHolder(descriptor)).stay(folder)
        libvirt.close()
      } else
        libvirt
          .call(procedures.finish, { parameters, cookie: '', flags, isCancelled: 0 }, 'unlimited')
          .catch(() => {})
          .finally(libvirt.close)
      if (!comesDirectly) return { cookie }
      if (uri === undefined) throw new Error('libvirt does not say where its QEMU listens')
      return { cookie: reachedAt({ uri, cookie }) }
    } catch (error) {
      libvirt.close()
      await dropImages(folder)
      return refusalOf(error)
    }
  }

  return {
    ...libvirtMoves(daemon, settings),
    hypervisor: facts.hypervisor,
    definitions: definitionVersions,
    copiesDisks: true,
    sendsDirectly: true,
    copiesAfterwards: true,

    start: async (vm) => {
      const here = await look(vm)
      if (here?.state === 'running') return started(here)
      if (here !== undefined)
        return { refusal: { type: 'GuestAlreadyHere', vm, state: here.state } }
      const refusal = await startFrom(await descriptionIn(definitions, vm), vm, daemon, checkRoom)
      if (refusal !== undefined) return { refusal }
      const made = await look(vm)
      return made === undefined ? { refusal: failed('it ended while it started') } : started(made)
    },

    begin: async (vm, leave) => {
      const here = await look(vm)
      if (here === undefined) return { refusal: { type: 'GuestGone', vm } }
      if (here.state !== 'running')
        return { refusal: { type: 'GuestNotRunning', vm, state: here.state } }
      return begun(here, await daemon.libvirt(), leave)
    },

    foresee: async (vms) => {
      const found = new Map<string, HostRefusal>()
      if (vms.length === 0) return found
      // One that hangs must not hold up what else is asked of libvirtd; what is behind it is not known then.
      const libvirt = await daemon.fresh()
      const all = async () => {
        for (const vm of vms) {
          const here = await look(vm)
          // While libvirt is at something with it, it would wait for that, or speak of it.
          if (here?.state !== 'running') continue
          if ((await daemon.jobOn(here.domain, libvirt)) !== undefined) continue
          const answer = await unlessGone(() => begun(here, libvirt))
          if (answer !== undefined && 'refusal' in answer) found.set(vm, answer.refusal)
        }
      }
      try {
        await within(clock, FORESEE_MS, 'libvirt saying what may leave', all())
      } catch (error) {
        if (!(error instanceof Overdue)) throw error
      } finally {
        libvirt.close()
      }
      return new Map(found)
    },

    prepare: async (landing): Promise<HostRefusal | Prepared> => {
      const { vm } = landing
      const here = await look(vm)
      if (here !== undefined) {
        if (here.mark === undefined || here.state === 'running')
          return { type: 'GuestAlreadyHere', vm, state: here.state }
        // One that was made for this very attempt as well: what libvirt said then, nobody knows any more.
        await daemon.end(here.domain)
      }
      await letGo(folderOf(guests, vm))
      const { definitionVersion = 1 } = landing
      const read = readDefinition(shapes[definitionVersion - 1] ?? Definition, landing.definition)
      if ('refusal' in read) return read.refusal
      const definition: Definition = { disks: [], ...read.definition }
      let needs: GuestNeeds
      try {
        needs = needsIn(definition.xml)
      } catch (error) {
        if (error instanceof XmlInvalid)
          return { type: 'DefinitionInvalid', path: 'xml', problem: error.message }
        throw error
      }
      const refusal =
        checkMachine(needs) ??
        (await checkRoom(Math.max(needs.memoryBytes, definition.memoryMiB * MEBIBYTE)))
      return refusal ?? land(landing, definition)
    },

    onChange: daemon.onChange,
  }
}

/** Where an image, and disks that come with it, is brought by an agent of Ferry's. */
const listeningAt = (path: string, diskPath: string | undefined): Ordered => ({
  parameters: [
    { field: 'migrate_uri', is: 'string', value: `unix://${path}` },
    ...(diskPath === undefined
      ? []
      : [{ field: 'disks_uri', is: 'string', value: `unix://${diskPath}` } as const]),
  ],
  flags: paused,
})

const started = ({ xml }: Looked): Begun => ({ needs: needsIn(xml), definition: xml })

const whyUnmovable = (error: unknown): string =>
  `libvirt does not take its storage for shared (${error instanceof Error ? error.message : String(error)}); a migration with --copy-disks takes it along`

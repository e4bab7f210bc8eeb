import { Type } from 'typebox'
import type { Static } from 'typebox'
import { GuestNeeds } from '@ferry/schemas/guest'
import type { HostRefusal } from '@ferry/schemas/refusal'
import { Overdue, within } from '@ferry/events/clock'
import type { Begun, Driver, Landing, Prepared } from '../../driver.ts'
import { valuesAt } from '../libvirt/domain-xml.ts'
import { whatElse } from '../libvirt/other-hand.ts'
import { procedures } from '../libvirt/procedures.ts'
import type { Domain, Parameter } from '../libvirt/procedures.ts'
import { descriptionIn, failed, refusalOf, startFrom } from '../libvirt/start.ts'
import { Description, MigrateFlag } from '../libvirt/words.ts'
import { readDefinition } from '../read-definition.ts'
import { missingOf } from '../xen/disks.ts'
import { refuseRoom } from '../xen/room.ts'
import { cookieOf } from './cookie.ts'
import { madeFor } from './copy.ts'
import type { Copy } from './copy.ts'
import type { LibxlHost } from './host.ts'
import { disksIn, libxlMoves, needsInXen, xmlOf } from './moves.ts'
import type { LibxlFacts } from './probe.ts'

/** Guests of Xen that belong to libvirtd: its phases, one by one, on both hosts, with what its driver for Xen does otherwise. */
export type LibxlSettings = {
  readonly host: LibxlHost
  readonly guests: string
  /** Where the operator's descriptions stand, `<name>.xml`; a guest that is defined in libvirt needs none. */
  readonly definitions: string
  readonly facts: LibxlFacts
}

/** What travels to the target, sealed: libvirt's description may hold passwords. */
const Definition = Type.Object(
  {
    memoryMiB: Type.Integer({ minimum: 1 }),
    needs: GuestNeeds,
    xml: Type.String({ minLength: 1 }),
    cookie: Type.String(),
    streamVersion: Type.Integer({ minimum: 1 }),
    persistentXml: Type.Optional(Type.String({ minLength: 1 })),
  },
  { additionalProperties: false },
)
type Definition = Static<typeof Definition>

const MEBIBYTE = 1024 ** 2
/** Xen follows the memory of such a guest only with shadow paging, which Debian's has not. */
const PARAVIRTUAL = 'xenpv'
const PREPARE_MS = 60_000
const FORESEE_MS = 3000

export function libxlDriver({ host, guests, definitions, facts }: LibxlSettings): Driver {
  const { clock, daemon, notes, xl, look, hasJob } = host
  const { hypervisor, streamVersion } = facts
  const moves = libxlMoves(host, guests)

  const missing = (capability: string): HostRefusal => ({
    type: 'CapabilityMissing',
    capability,
    hypervisor: hypervisor.hypervisorVersion,
  })

  const checkRoom = (vm: string, neededBytes: number) =>
    refuseRoom(vm, neededBytes, xl, notes, (name) => name)

  async function refusalToLeave(
    vm: string,
    domain: Domain,
    xml: string,
    { isOurs }: Copy,
  ): Promise<HostRefusal | undefined> {
    if (!facts.canMigrateByPhases) return missing('migration by phases with parameters')
    const libvirt = await daemon.libvirt()
    const { isOn } = await libvirt.call(procedures.autostart, { domain })
    if (isOn !== 0) return { type: 'StartsByItself', vm }
    if (!isOurs && (await hasJob(domain))) return failed(whatElse.other)
    if (needsInXen(xml).machine === PARAVIRTUAL)
      return failed('a PV guest cannot be moved while it runs; run it as PVH')
    const cards = valuesAt(xml, ['devices', 'interface'], 'type')
    const ofTheHost = valuesAt(xml, ['devices', 'hostdev'], 'type').length
    return ofTheHost > 0 || cards.includes('hostdev')
      ? failed('a guest with devices of its host cannot leave')
      : undefined
  }

  async function begun(vm: string, here: Copy): Promise<Begun> {
    const { domain } = here
    const xml = domain && (await xmlOf(domain, daemon))
    if (domain === undefined || xml === undefined) return { refusal: { type: 'GuestGone', vm } }
    const refusal = await refusalToLeave(vm, domain, xml, here)
    if (refusal !== undefined) return { refusal }
    const needs = needsInXen(xml)
    const persistentXml = await persistentXmlOf(domain)
    const definition: Definition = {
      memoryMiB: Math.ceil(needs.memoryBytes / MEBIBYTE),
      needs,
      xml,
      cookie: cookieOf(domain, streamVersion),
      streamVersion,
      ...(persistentXml === undefined ? {} : { persistentXml }),
    }
    return { needs, definition: JSON.stringify(definition) }
  }

  async function persistentXmlOf(domain: Domain): Promise<string | undefined> {
    const libvirt = await daemon.libvirt()
    const { isPersistent } = await libvirt.call(procedures.isPersistent, { domain })
    if (isPersistent === 0) return undefined
    return xmlOf(domain, daemon, Description.secure | Description.inactive)
  }

  const started = async (vm: string): Promise<Begun> => {
    const here = await look(vm)
    const xml = here?.domain && (await xmlOf(here.domain, daemon))
    return xml === undefined
      ? { refusal: failed('it ended while it started') }
      : { needs: needsInXen(xml), definition: xml }
  }

  /** libvirtd listens on an address that no other host reaches: what comes there is brought by this host's agent. */
  async function land({ vm, migration, attempt }: Landing, definition: Definition) {
    const { xml, cookie, needs, persistentXml } = definition
    const parameters: Parameter[] = [
      { field: 'migrate_uri', is: 'string', value: 'tcp://127.0.0.1' },
      { field: 'destination_xml', is: 'string', value: xml },
      { field: 'destination_name', is: 'string', value: vm },
    ]
    const flags = MigrateFlag.live | MigrateFlag.paused
    const libvirt = await daemon.libvirt()
    try {
      const { uri } = await libvirt.call(
        procedures.prepare,
        { parameters, cookie, flags },
        PREPARE_MS,
      )
      const port = Number(/:(\d+)$/.exec(uri ?? '')?.[1])
      const receives = { migration, attempt }
      const note = { vm, receives, needs, port, isVisited: false }
      await notes.write({ ...note, ...(persistentXml === undefined ? {} : { persistentXml }) })
      return { cookie: String(streamVersion) }
    } catch (error) {
      return refusalOf(error)
    }
  }

  return {
    ...moves,
    hypervisor,

    start: async (vm) => {
      const here = await look(vm)
      if (here?.is === 'running') return started(vm)
      if (here !== undefined) return { refusal: { type: 'GuestAlreadyHere', vm, state: here.is } }
      const described = await descriptionIn(definitions, vm)
      const refusal = await startFrom(described, vm, daemon, (bytes) => checkRoom(vm, bytes))
      return refusal === undefined ? started(vm) : { refusal }
    },

    begin: async (vm) => {
      const here = await look(vm)
      if (here === undefined) return { refusal: { type: 'GuestGone', vm } }
      if (here.is !== 'running') return { refusal: { type: 'GuestNotRunning', vm, state: here.is } }
      return begun(vm, here)
    },

    foresee: async (vms) => {
      const found = new Map<string, HostRefusal>()
      if (vms.length === 0) return found
      const all = async () => {
        for (const copy of await host.all()) {
          if (copy.is !== 'running' || !vms.includes(copy.vm)) continue
          const answer = await begun(copy.vm, copy)
          if ('refusal' in answer) found.set(copy.vm, answer.refusal)
        }
      }
      // One that hangs must not hold up what else is asked of this host; what is behind it is not known then.
      await within(clock, FORESEE_MS, 'libvirt saying what may leave', all()).catch(unlessOverdue)
      return new Map(found)
    },

    prepare: async (landing): Promise<HostRefusal | Prepared> => {
      const { vm } = landing
      const here = await look(vm)
      if (here !== undefined && madeFor(here) === undefined)
        return { type: 'GuestAlreadyHere', vm, state: here.is }
      const read = readDefinition(Definition, landing.definition)
      if ('refusal' in read) return read.refusal
      const { definition } = read
      const { needs, memoryMiB, xml } = definition
      if (!hypervisor.machines.includes(needs.machine))
        return { type: 'MachineUnsupported', machine: needs.machine }
      if (definition.streamVersion > streamVersion)
        return missing(
          `version ${definition.streamVersion} of Xen's stream, which the source writes: it reads none above ${streamVersion}`,
        )
      const path = await missingOf(disksIn(xml))
      if (path !== undefined) return { type: 'DiskMissing', path }
      // One that was made for this very attempt as well: where libvirtd waits for it, a lost answer may have said.
      if (here !== undefined) await moves.clear(vm)
      const neededBytes = Math.max(needs.memoryBytes, memoryMiB * MEBIBYTE)
      return (await checkRoom(vm, neededBytes)) ?? land(landing, definition)
    },

    onChange: daemon.onChange,
  }
}

function unlessOverdue(error: unknown): void {
  if (!(error instanceof Overdue)) throw error
}

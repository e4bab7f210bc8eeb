import { DOMParser, XMLSerializer } from '@xmldom/xmldom'
import type { Document, Element } from '@xmldom/xmldom'
import type { GuestNeeds } from '@ferry/schemas/guest'

/** libvirt's description of a guest, as far as it is read; everything else in it goes through as it is. */

/** A copy that has never been started carries, in its own description, the attempt that it was made for. */
export type Mark = {
  readonly migration: string
  readonly attempt: number
  /** As it is to be defined here once it runs; absent: it was not defined where it came from either. */
  readonly persistentXml?: string
  /** What comes for it holds disks as well, and libvirt's Finish is still to be asked for. */
  readonly bringsDisks?: boolean
  /** It comes from QEMU to QEMU, and through no stream of Ferry's. */
  readonly comesDirectly?: boolean
  /** It may be started before all of it is there, and libvirt's Finish, which starts it, is still to be asked for. */
  readonly isPostCopy?: boolean
}

export class XmlInvalid extends Error {
  override readonly name = 'XmlInvalid'
}

/** The namespace of what Ferry writes into a description. */
export const MARK_NAMESPACE = 'urn:dev.ferry:receives'
const MARK = 'receives'

export function needsIn(xml: string): GuestNeeds {
  const root = rootOf(xml)
  const accelerators: Readonly<Record<string, string>> = { qemu: 'tcg', kvm: 'kvm' }
  const type = root.getAttribute('type') ?? ''
  const cpu = child(root, 'cpu')
  return {
    memoryBytes: memoryIn(root),
    vcpus: Number(textOf(child(root, 'vcpu')) ?? 1),
    hypervisor: 'libvirt',
    machine: within(root, 'os', 'type')?.getAttribute('machine') ?? '',
    cpu: textOf(cpu && child(cpu, 'model')) ?? cpu?.getAttribute('mode') ?? PLAIN_CPU,
    accelerator: accelerators[type] ?? type,
  }
}

/** What libvirt gives a guest whose description names none. */
const PLAIN_CPU = 'qemu64'

export const nameIn = (xml: string): string | undefined => textOf(child(rootOf(xml), 'name'))

export type Disk = {
  /** What the guest calls it: `vda`. */
  readonly target: string
  /** libvirt's own name for it; absent in a description of a guest that does not run. */
  readonly alias: string | undefined
  /** A file, a block device, a volume, or what it is called on the network. */
  readonly place: string
  /** Absent: it is no file. */
  readonly file: string | undefined
  readonly format: string
  readonly isEncrypted: boolean
  /** It only holds what differs from another image. */
  readonly hasBase: boolean
}

/** The disks that the guest may write to, and shares with no other guest. */
export function writableDisksIn(xml: string): Disk[] {
  const devices = child(rootOf(xml), 'devices')
  const disks = devices === undefined ? [] : children(devices, 'disk')
  return disks.flatMap((disk) => {
    if (child(disk, 'readonly') !== undefined || child(disk, 'shareable') !== undefined) return []
    const source = child(disk, 'source')
    const place = ['file', 'dev', 'volume', 'name']
      .map((name) => source?.getAttribute(name) ?? undefined)
      .find((each) => each !== undefined)
    if (source === undefined || place === undefined) return []
    const base = child(disk, 'backingStore')
    return {
      target: child(disk, 'target')?.getAttribute('dev') ?? '',
      alias: child(disk, 'alias')?.getAttribute('name') ?? undefined,
      place,
      file: source.getAttribute('file') ?? undefined,
      format: child(disk, 'driver')?.getAttribute('type') ?? 'raw',
      isEncrypted: [disk, source].some((each) => child(each, 'encryption') !== undefined),
      hasBase: base !== undefined && child(base, 'source') !== undefined,
    }
  })
}

export function markIn(xml: string): Mark | undefined {
  const mark = within(rootOf(xml), 'metadata', MARK)
  if (mark?.namespaceURI !== MARK_NAMESPACE) return undefined
  const persistentXml = textOf(mark)
  return {
    migration: mark.getAttribute('migration') ?? '',
    attempt: Number(mark.getAttribute('attempt')),
    ...(persistentXml === undefined ? {} : { persistentXml }),
    ...(mark.getAttribute('disks') === BROUGHT ? { bringsDisks: true } : {}),
    ...(mark.getAttribute('comes') === DIRECTLY ? { comesDirectly: true } : {}),
    ...(mark.getAttribute('rest') === AFTERWARDS ? { isPostCopy: true } : {}),
  }
}

const BROUGHT = 'brought'
const DIRECTLY = 'directly'
const AFTERWARDS = 'afterwards'

export function withMark(
  xml: string,
  {
    migration,
    attempt,
    persistentXml,
    bringsDisks = false,
    comesDirectly = false,
    isPostCopy = false,
  }: Mark,
): string {
  const root = rootOf(xml)
  const document = documentOf(root)
  const metadata =
    child(root, 'metadata') ?? root.appendChild(document.createElementNS(null, 'metadata'))
  const mark = document.createElementNS(MARK_NAMESPACE, `ferry:${MARK}`)
  mark.setAttribute('migration', migration)
  mark.setAttribute('attempt', String(attempt))
  if (bringsDisks) mark.setAttribute('disks', BROUGHT)
  if (comesDirectly) mark.setAttribute('comes', DIRECTLY)
  if (isPostCopy) mark.setAttribute('rest', AFTERWARDS)
  if (persistentXml !== undefined) mark.appendChild(document.createTextNode(persistentXml))
  metadata.appendChild(mark)
  return new XMLSerializer().serializeToString(root)
}

/** A cookie from another host's libvirtd that speaks of nothing but disks that came. */
export function cookieOfDisks(
  name: string,
  uuid: Buffer,
  host: { readonly name: string; readonly uuid: Buffer },
): string {
  const root = rootOf('<qemu-migration><nbd port="0"/></qemu-migration>')
  const document = documentOf(root)
  const texts = { name, uuid: dashed(uuid), hostname: host.name, hostuuid: dashed(host.uuid) }
  for (const [element, value] of Object.entries(texts))
    root
      .appendChild(document.createElementNS(null, element))
      .appendChild(document.createTextNode(value))
  return new XMLSerializer().serializeToString(root)
}

export const dashed = (uuid: Buffer): string =>
  uuid.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')

/** All texts, or values of an attribute, of the elements at the end of a path. */
export function valuesAt(xml: string, path: readonly string[], attribute?: string): string[] {
  const found = path.reduce(
    (all, name) => all.flatMap((each) => children(each, name)),
    [rootOf(xml)],
  )
  return found
    .map((each) => (attribute === undefined ? textOf(each) : each.getAttribute(attribute)))
    .filter((value) => value !== undefined && value !== null)
}

function rootOf(xml: string): Element {
  let document: Document
  try {
    document = new DOMParser({ onError: complain }).parseFromString(xml, 'text/xml')
  } catch (cause) {
    throw new XmlInvalid(cause instanceof Error ? cause.message : String(cause), { cause })
  }
  if (document.documentElement === null) throw new XmlInvalid('it holds no element')
  return document.documentElement
}

function documentOf({ ownerDocument }: Element): Document {
  if (ownerDocument === null) throw new XmlInvalid('the description stands in no document')
  return ownerDocument
}

const complain = (_: 'warning' | 'error' | 'fatalError', message: string): never => {
  throw new XmlInvalid(message)
}

function children(parent: Element, name: string): Element[] {
  const found: Element[] = []
  for (let node = parent.firstChild; node !== null; node = node.nextSibling)
    if (isElement(node) && node.localName === name) found.push(node)
  return found
}

const isElement = (node: { readonly nodeType: number }): node is Element => node.nodeType === 1

const child = (parent: Element, name: string): Element | undefined => children(parent, name)[0]

const within = (root: Element, outer: string, inner: string): Element | undefined => {
  const found = child(root, outer)
  return found && child(found, inner)
}

const textOf = (element: Element | undefined): string | undefined =>
  element?.textContent?.trim() || undefined

const units: Readonly<Record<string, number>> = {
  b: 1,
  bytes: 1,
  KB: 1000,
  k: 1024,
  KiB: 1024,
  MB: 1000 ** 2,
  M: 1024 ** 2,
  MiB: 1024 ** 2,
  GB: 1000 ** 3,
  G: 1024 ** 3,
  GiB: 1024 ** 3,
  TB: 1000 ** 4,
  T: 1024 ** 4,
  TiB: 1024 ** 4,
}

function memoryIn(root: Element): number {
  const memory = child(root, 'memory')
  const unit = units[memory?.getAttribute('unit') ?? 'KiB']
  const amount = Number(textOf(memory))
  if (unit === undefined || !Number.isFinite(amount) || amount <= 0)
    throw new XmlInvalid('it does not say how much memory the guest has')
  return amount * unit
}

import { Type } from 'typebox'
import type { Static } from 'typebox'
import type { HostRefusal } from '@ferry/schemas/refusal'
import { CopyFailed } from '../../driver.ts'
import { isCode } from './daemon.ts'
import type { DiskOut } from './disks-out.ts'
import { valuesAt, writableDisksIn } from './domain-xml.ts'
import type { Disk } from './domain-xml.ts'
import { MOST_DISKS } from './one-stream.ts'
import { procedures } from './procedures.ts'
import type { Domain, Parameter } from './procedures.ts'
import { WAITS } from './other-hand.ts'
import type { Libvirt } from './rpc.ts'
import { Code } from './words.ts'

/** A disk that travels with its guest: what the target must know to make an image for it. */
export const DiskToBring = Type.Object(
  {
    target: Type.String({ minLength: 1 }),
    path: Type.String({ pattern: '^/' }),
    format: Type.Union([Type.Literal('raw'), Type.Literal('qcow2')]),
    sizeBytes: Type.Integer({ minimum: 1 }),
    /** So much of it is not empty. */
    usedBytes: Type.Integer({ minimum: 0 }),
  },
  { additionalProperties: false },
)
export type DiskToBring = Static<typeof DiskToBring>

/** libvirt's words for "these disks are copied". */
export const bringing = (targets: readonly string[]): Parameter[] =>
  targets.map((value) => ({ field: 'migrate_disks', is: 'string', value }))

/**
 * The disks of a guest without which libvirt would not let it go. libvirt itself says which they are: it is asked about
 * all but one, for each of them.
 *
 * @param begin asks libvirt's Begin, which changes nothing, with these disks copied.
 */
export async function disksToBring(
  xml: string,
  domain: Domain,
  libvirt: Libvirt,
  begin: (targets: readonly string[]) => Promise<unknown>,
): Promise<DiskToBring[] | HostRefusal> {
  const all = writableDisksIn(xml)
  const isNeeded = async ({ target }: Disk): Promise<boolean> => {
    const others = all.map((each) => each.target).filter((each) => each !== target)
    // To libvirt no names are all names.
    if (others.length === 0) return true
    try {
      await begin(others)
      return false
    } catch (error) {
      if (isCode(error, Code.migrateUnsafe)) return true
      throw error
    }
  }
  const found: DiskToBring[] = []
  for (const disk of all) {
    if (!(await isNeeded(disk))) continue
    const { target, file: path, format } = disk
    const why = whyNotCopied(disk)
    if (why !== undefined) return { type: 'DiskUnmovable', path: disk.place, why }
    if (path === undefined || (format !== 'raw' && format !== 'qcow2')) continue
    const { capacityBytes, allocationBytes } = await libvirt.call(procedures.blockInfo, {
      domain,
      path,
      flags: 0,
    })
    const sizeBytes = Number(capacityBytes)
    found.push({ target, path, format, sizeBytes, usedBytes: Number(allocationBytes) })
  }
  if (found.length > MOST_DISKS)
    return { type: 'HypervisorFailed', message: `${found.length} disks are too many to be copied` }
  return found
}

/** Why Ferry does not copy a disk at all; undefined: it does. */
function whyNotCopied({ file, format, isEncrypted, hasBase }: Disk): string | undefined {
  if (file === undefined) return 'only disks that are files are copied'
  if (format !== 'raw' && format !== 'qcow2') return `${format} images are not copied`
  if (isEncrypted) return 'it is encrypted, and its secret is not sent'
  if (hasBase) return 'it has a backing image: put them together first (virsh blockpull)'
  return undefined
}

export type DiskToSend = { readonly target: string; readonly file: string; readonly alias: string }

/**
 * The disks that the target has made images for, as its libvirt says in Prepare's cookie.
 *
 * @throws {CopyFailed} when one of them is not here as it was, or QEMU could not end their copies with the guest paused.
 */
export function disksAsked(cookie: string, xml: string): DiskToSend[] {
  const asked = valuesAt(cookie, ['nbd', 'disk'], 'target')
  if (asked.length === 0) return []
  if (!cookie.includes(WAITS))
    throw failed("the target's QEMU cannot wait before the switchover, and disks need that")
  const here = writableDisksIn(xml)
  return asked.map((target) => {
    const disk = here.find((each) => each.target === target)
    if (disk?.file === undefined || disk.alias === undefined)
      throw failed(`the disk ${target} is not there any more`)
    return { target, file: disk.file, alias: disk.alias }
  })
}

/** libvirt's two ends call a disk by the name that QEMU knew its drive by. */
export const disksToSend = (
  disks: readonly DiskToSend[],
  domain: Domain,
  libvirt: Libvirt,
): Promise<DiskOut[]> =>
  Promise.all(
    disks.map(async ({ file, alias }) => {
      const asked = { domain, path: file, flags: 0 }
      const { capacityBytes } = await libvirt.call(procedures.blockInfo, asked)
      return { name: `drive-${alias}`, sizeBytes: Number(capacityBytes) }
    }),
  )

/** Why no copy of a guest's disks begins any more: what an earlier one needed is still in QEMU. */
export const isInTheWay = ({ failure }: CopyFailed): boolean =>
  failure.type === 'HypervisorFailed' && failure.message.includes("node-name='migration-")

/**
 * A libvirtd that is killed just when it has had QEMU open the way to the target's disk leaves it there, and knows nothing
 * of it when it is back (9.0: in 3 of 9 such kills on a busy machine). QEMU does not let go of one that is in use.
 */
export async function clearTheWay(
  disks: readonly DiskToSend[],
  domain: Domain,
  libvirt: Libvirt,
): Promise<void> {
  for (const { target } of disks)
    for (const layer of ['format', 'storage']) {
      const node = { 'node-name': `migration-${target}-${layer}` }
      const command = JSON.stringify({ execute: 'blockdev-del', arguments: node })
      await libvirt.call(procedures.tellMonitor, { domain, command, flags: 0 })
    }
}

const failed = (message: string) => new CopyFailed({ type: 'HypervisorFailed', message })

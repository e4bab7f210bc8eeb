import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { HostRefusal } from '@ferry/schemas/refusal'
import { unlessGone } from './daemon.ts'
import type { Daemon } from './daemon.ts'
import { XmlInvalid, nameIn, needsIn } from './domain-xml.ts'
import { procedures } from './procedures.ts'
import { LibvirtError } from './rpc.ts'

/** From the operator's own file, or as libvirt has it defined. @returns why not; undefined: it has been started. */
export async function startFrom(
  xml: string | undefined,
  vm: string,
  daemon: Daemon,
  checkRoom: (neededBytes: number) => Promise<HostRefusal | undefined>,
): Promise<HostRefusal | undefined> {
  const libvirt = await daemon.libvirt()
  try {
    if (xml !== undefined) {
      if (nameIn(xml) !== vm)
        return { type: 'DefinitionInvalid', path: 'name', problem: `is not ${vm}` }
      const refusal = await checkRoom(needsIn(xml).memoryBytes)
      if (refusal === undefined) await libvirt.call(procedures.createXml, { xml, flags: 0 })
      return refusal
    }
    const defined = await unlessGone(() => libvirt.call(procedures.lookUp, { name: vm }))
    if (defined === undefined) return { type: 'UnknownDefinition', vm }
    await libvirt.call(procedures.create, defined)
    return undefined
  } catch (error) {
    if (error instanceof XmlInvalid)
      return { type: 'DefinitionInvalid', path: 'xml', problem: error.message }
    return refusalOf(error)
  }
}

export async function descriptionIn(folder: string, vm: string): Promise<string | undefined> {
  try {
    // A name with a slash would leave the folder.
    return await readFile(join(folder, `${encodeURIComponent(vm)}.xml`), 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

export const failed = (message: string): HostRefusal => ({ type: 'HypervisorFailed', message })

/** What libvirt says when it will not; anything else is an error. */
export function refusalOf(error: unknown): HostRefusal {
  if (!(error instanceof LibvirtError)) throw error
  return failed(error.message)
}

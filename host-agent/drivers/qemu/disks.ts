import { execFile } from 'node:child_process'
import { access, constants } from 'node:fs/promises'
import { promisify } from 'node:util'
import { Type } from 'typebox'
import { parse } from '@ferry/schemas/parse'
import type { HostRefusal } from '@ferry/schemas/refusal'
import type { Definition } from './definition.ts'

/** Whether all files of a definition are here and are what it says; asked before anything moves. */
export async function checkFiles(definition: Definition): Promise<HostRefusal | undefined> {
  for (const path of [definition.kernel, definition.initrd])
    if (path !== undefined && !(await isReadable(path))) return { type: 'FileMissing', path }
  for (const { path, format } of definition.disks ?? []) {
    if (!(await isReadable(path))) return { type: 'DiskMissing', path }
    const found = await formatOf(path)
    if (found === undefined) return { type: 'ToolMissing', tool: 'qemu-img' }
    if (found !== format) return { type: 'DiskMismatch', path, expected: format, found }
  }
  return undefined
}

const isReadable = (path: string) =>
  access(path, constants.R_OK).then(
    () => true,
    () => false,
  )

const ImageInfo = Type.Object({ format: Type.String() })
const QEMU_IMG_MS = 10_000

/** `--force-share`: the source's QEMU holds the image's lock, and only its header is read. */
async function formatOf(path: string): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)(
      'qemu-img',
      ['info', '--force-share', '--output=json', path],
      {
        timeout: QEMU_IMG_MS,
      },
    )
    return parse(ImageInfo, JSON.parse(stdout), `qemu-img info ${path}`).format
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

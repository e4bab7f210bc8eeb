import { createHash } from 'node:crypto'
import { join } from 'node:path'

/** A guest's own folder in another one, with a name so short that sockets fit into it: long names become a digest. */
export function folderOf(parent: string, vm: string): string {
  const isPlain = /^[A-Za-z0-9_-]{1,24}$/.test(vm)
  return join(parent, isPlain ? vm : createHash('sha256').update(vm).digest('hex').slice(0, 24))
}

/** The kernel's limit for a unix socket's path, in bytes. */
const LONGEST_SOCKET_PATH = 107
const LONGEST_NAME = join('x'.repeat(24), 'operator.qmp')

/** @throws when the folder is so deep that the sockets in a guest's folder do not fit. */
export function checkDepth(parent: string): void {
  const over = Buffer.byteLength(join(parent, LONGEST_NAME)) - LONGEST_SOCKET_PATH
  if (over > 0)
    throw new Error(
      `${parent} is ${over} characters too long for unix sockets; take a shorter stateDirectory`,
    )
}

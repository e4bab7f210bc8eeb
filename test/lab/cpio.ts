/** The archive that a kernel unpacks into its first file system (cpio's "newc": `initramfs buffer format` in the kernel's documentation). */
export type Entry = { readonly path: string; readonly mode: number; readonly content?: Buffer }

export const folder = (path: string): Entry => ({ path, mode: 0o040755 })
export const program = (path: string, content: Buffer): Entry => ({
  path,
  mode: 0o100755,
  content,
})

export function cpio(entries: readonly Entry[]): Buffer {
  const all = [...entries, { path: 'TRAILER!!!', mode: 0 }]
  return Buffer.concat(all.flatMap((entry, nth) => record(entry, nth + 1)))
}

function record({ path, mode, content = Buffer.alloc(0) }: Entry, inode: number): Buffer[] {
  const name = Buffer.from(`${path}\0`)
  // Inode, mode, user, group, links, time, size, four device numbers, length of the name, checksum.
  const fields = [inode, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length, 0]
  const head = Buffer.from(
    `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`,
  )
  return [padded(Buffer.concat([head, name])), padded(content)]
}

const padded = (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)])

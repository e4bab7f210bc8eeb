import { execFile } from 'node:child_process'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** How the small guest (`xen-guest.c`) is made: for PVH a kernel, for HVM a disk with the same program on it. */

const SECTOR_BYTES = 512
const SOURCE = join(import.meta.dirname, 'xen-guest.c')
const BOOT = join(import.meta.dirname, 'xen-boot.S')

/** 32 bits, and nothing under it: no library, no system, no unit for floating point. */
const bare = [
  '-m32 -Os -Wall -ffreestanding -fno-pic -fno-stack-protector -mgeneral-regs-only -fcf-protection=none',
  '-fno-asynchronous-unwind-tables -nostdlib -static -no-pie -Wl,--build-id=none,-z,noexecstack',
].flatMap((words) => words.split(' '))

const FIRST_BYTE = 2 ** 20

export const makeSmall = (kernel: string): Promise<unknown> =>
  cc([`-Wl,-e,start,-Ttext-segment=0x${FIRST_BYTE.toString(16)}`, '-o', kernel, SOURCE])

/** Behind its first sector lies the program as it will lie in memory, but for the zeros at its end. */
export async function diskOf(kernel: string, disk: string): Promise<void> {
  const { program, zeros, entry } = loaded(await readFile(kernel))
  const sectors = Math.ceil(program.length / SECTOR_BYTES)
  const numbers = {
    SECTORS: sectors,
    AT: FIRST_BYTE,
    BYTES: program.length,
    ZEROS: zeros,
    ENTRY: entry,
  }
  const symbols = Object.entries(numbers).map(([name, number]) => `,--defsym,${name}=${number}`)
  const first = `${disk}.first`
  const layout = '-Wl,--oformat=binary,-Ttext=0x7c00,-e,boot'
  await cc([`-Wa${symbols.join('')}`, layout, '-o', first, BOOT])
  const rest = Buffer.alloc(sectors * SECTOR_BYTES - program.length)
  await writeFile(disk, Buffer.concat([await readFile(first), program, rest]))
  await rm(first)
}

const cc = (words: readonly string[]) => promisify(execFile)('cc', [...bare, ...words])

const ENTRY_AT = 24
const HEADERS_AT = 28
const HEADER_COUNT_AT = 44
const HEADER_BYTES = 32
const LOAD = 1

/** What of a 32-bit ELF file is loaded, and to where ("System V ABI", program header). */
function loaded(file: Buffer) {
  const at = file.readUInt32LE(HEADERS_AT)
  const headers = Array.from({ length: file.readUInt16LE(HEADER_COUNT_AT) }, (_, nth) => {
    const word = (number: number) => file.readUInt32LE(at + nth * HEADER_BYTES + number * 4)
    return { type: word(0), from: word(1), to: word(2) - FIRST_BYTE, bytes: word(4), size: word(5) }
  })
  const parts = headers.filter(({ type }) => type === LOAD)
  const filled = parts.filter(({ bytes }) => bytes > 0)
  const program = Buffer.alloc(Math.max(...filled.map(({ to, bytes }) => to + bytes)))
  for (const { from, to, bytes } of filled) file.copy(program, to, from, from + bytes)
  const end = Math.max(...parts.map(({ to, size }) => to + size))
  return { program, zeros: end - program.length, entry: file.readUInt32LE(ENTRY_AT) }
}

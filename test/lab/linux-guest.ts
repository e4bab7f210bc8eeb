import { execFile, spawn } from 'node:child_process'
import {
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rename,
  rm,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import * as assert from 'uvu/assert'
import { until } from '../until.ts'
import { PATIENCE_MS, other } from './libvirt-stage.ts'
import type { Rack, StagedGuest } from './libvirt-stage.ts'

/**
 * A guest with a whole operating system's kernel: Debian's for clouds, which counts on its serial console ten times a
 * second. Kernel and busybox are unpacked from Debian's packages and never installed; they are kept beside the packages
 * of npm, so that they are fetched once.
 */
const KEPT = join(import.meta.dirname, '..', '..', 'node_modules', '.cache', 'ferry-linux')
const KERNEL = 'linux-image-cloud-amd64'
const MEMORY_MIB = 256

export type LinuxDisk = { readonly path: string; readonly format: 'raw' | 'qcow2' }

/** @param disks what it writes each number to as well, and has on disk before it says it: `vda`, `vdb`, ... */
export function linuxGuest(
  disks: readonly LinuxDisk[] = [],
): StagedGuest & { readonly ticks: () => number } {
  const console = makeConsole()
  return {
    /** The last number that it has said, as of the last look. */
    ticks: console.ticks,
    describe: async () => {
      const { kernel, initramfs } = await linuxFiles(disks)
      return description(kernel, initramfs, disks)
    },
    goesOn: async (_, rack, folder) => {
      const before = console.ticks()
      const hasTicked = async () => {
        await console.read(folder, rack)
        return console.ticks() > before
      }
      await until('the guest to count on', hasTicked, PATIENCE_MS)
    },
  }
}

/**
 * All that the guest has ever written, put together from the files of both hosts in the order in which it ran there. It
 * must read as if there had been one: no number twice, none left out, not even half a line.
 */
function makeConsole() {
  const seen: Record<Rack, number> = { rack1: 0, rack2: 0 }
  let text = ''
  const readOn = async (folder: string, rack: Rack) => {
    const file = join(folder, rack, 'log', SERIAL)
    const written = await readFile(file, 'latin1').catch(() => '')
    text += written.slice(seen[rack])
    seen[rack] = written.length
  }
  const count = () => {
    const lines = text.split('\r\n').slice(0, -1)
    const first = lines.indexOf('tick 1')
    const ticks = first === -1 ? [] : lines.slice(first)
    for (const [nth, line] of ticks.entries()) assert.is(line, `tick ${nth + 1}`)
    return ticks.length
  }
  return {
    ticks: count,
    read: async (folder: string, rack: Rack) => {
      await readOn(folder, other(rack))
      await readOn(folder, rack)
    },
  }
}

const SERIAL = 'web1-serial.log'

const description = (
  kernel: string,
  initramfs: string,
  disks: readonly LinuxDisk[],
): string => `<domain type='qemu'>
  <name>web1</name>
  <memory unit='MiB'>${MEMORY_MIB}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>${kernel}</kernel>
    <initrd>${initramfs}</initrd>
    <cmdline>console=ttyS0 quiet loglevel=0 panic=-1</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <serial type='file'><source path='/var/log/libvirt/${SERIAL}' append='on'/></serial>
    <memballoon model='none'/>
${disks.map(disk).join('')}  </devices>
</domain>
`

const disk = (
  { path, format }: LinuxDisk,
  nth: number,
): string => `    <disk type='file' device='disk'>
      <driver name='qemu' type='${format}' cache='none'/>
      <source file='${path}'/>
      <target dev='${nameOf(nth)}' bus='virtio'/>
    </disk>
`

const nameOf = (nth: number): string => `vd${String.fromCharCode(97 + nth)}`

type LinuxFiles = { readonly kernel: string; readonly initramfs: string }

async function linuxFiles(disks: readonly LinuxDisk[]): Promise<LinuxFiles> {
  const initramfs = disks.length === 0 ? 'initramfs' : 'initramfs-disks'
  const files = { kernel: join(KEPT, 'vmlinuz'), initramfs: join(KEPT, initramfs) }
  const busybox = join(KEPT, 'busybox')
  const kept = new Set(await readdir(KEPT).catch((): string[] => []))
  const wanted = ['vmlinuz', 'busybox', ...MODULES.map(fileOf)]
  if (!wanted.every((name) => kept.has(name))) await fetchFiles(files.kernel, busybox)
  await packInitramfs(busybox, files.initramfs, disks)
  return files
}

/** What the kernel needs for its disks, in the order in which it takes them. */
const MODULES = [
  'virtio_ring',
  'virtio',
  'virtio_pci_legacy_dev',
  'virtio_pci_modern_dev',
  'virtio_pci',
  'virtio_blk',
]
const fileOf = (module: string): string => `${module}.ko`

async function fetchFiles(kernel: string, busybox: string): Promise<void> {
  await mkdir(KEPT, { recursive: true })
  const folder = await mkdtemp(join(tmpdir(), 'ferry-linux-'))
  const run = (command: string, ...words: string[]) =>
    promisify(execFile)(command, words, { cwd: folder })
  try {
    const { stdout } = await run('apt-cache', 'depends', KERNEL)
    const image = /Depends: (linux-image-\S+)/.exec(stdout)?.[1]
    if (image === undefined) throw new Error(`apt knows no ${KERNEL}`)
    await run(
      'apt-get',
      '-qq',
      '-o',
      'APT::Sandbox::User=root',
      'download',
      image,
      'busybox-static',
    )
    for (const name of await readdir(folder))
      if (name.endsWith('.deb')) await run('dpkg-deb', '--extract', name, 'all')
    const boot = await readdir(join(folder, 'all', 'boot'))
    const found = boot.find((name) => name.startsWith('vmlinuz'))
    if (found === undefined) throw new Error(`${image} holds no kernel`)
    await place(join(folder, 'all', 'boot', found), kernel)
    await place(join(folder, 'all', 'bin', 'busybox'), busybox)
    const { stdout: modules } = await run('find', 'all/lib/modules', '-name', '*.ko')
    const all = modules.split('\n')
    for (const name of MODULES.map(fileOf)) {
      const path = all.find((each) => each.endsWith(`/${name}`))
      if (path === undefined) throw new Error(`${image} holds no ${name}`)
      await place(join(folder, path), join(KEPT, name))
    }
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** Whoever is ended in between leaves no half of a file behind under that name. */
async function place(from: string, to: string): Promise<void> {
  await copyFile(from, `${to}.new`)
  await rename(`${to}.new`, to)
}

/** Where on its disks it writes, in sectors of 512 bytes; each number takes the place of the one 64 before it. */
export const WRITES_AT = 2048
export const WRITES = 64

const init = (disks: readonly LinuxDisk[]): string => `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
${disks.length === 0 ? '' : MODULES.map((name) => `/bin/busybox insmod /${fileOf(name)}\n`).join('')}number=0
while :; do
  number=$((number + 1))
${disks.map(writes).join('')}  echo "tick $number"
  /bin/busybox usleep 100000
done
`

const writes = (_: LinuxDisk, nth: number): string =>
  `  /bin/busybox test -b /dev/${nameOf(nth)} || exit 1
  echo "tick $number" | /bin/busybox dd of=/dev/${nameOf(nth)} bs=512 seek=$((number % ${WRITES} + ${WRITES_AT})) conv=notrunc,sync,fsync 2>/dev/null || exit 1\n`

async function packInitramfs(
  busybox: string,
  into: string,
  disks: readonly LinuxDisk[],
): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-initramfs-'))
  const modules = disks.length === 0 ? [] : MODULES.map(fileOf)
  try {
    for (const name of ['bin', 'dev']) await mkdir(join(folder, name))
    await copyFile(busybox, join(folder, 'bin/busybox'))
    await writeFile(join(folder, 'init'), init(disks))
    for (const name of ['bin/busybox', 'init']) await chmod(join(folder, name), 0o755)
    for (const name of modules) await copyFile(join(KEPT, name), join(folder, name))
    const names = ['bin', 'bin/busybox', 'dev', 'init', ...modules]
    await writeFile(`${into}.new`, await archived(busybox, folder, names))
    await rename(`${into}.new`, into)
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** In the format that the kernel unpacks. */
async function archived(
  busybox: string,
  folder: string,
  names: readonly string[],
): Promise<Buffer> {
  const child = spawn(busybox, ['cpio', '-o', '-H', 'newc'], {
    cwd: folder,
    stdio: ['pipe', 'pipe', 'ignore'],
  })
  const pieces: Buffer[] = []
  child.stdout.on('data', (piece: Buffer) => pieces.push(piece))
  child.stdin.end(names.map((name) => `${name}\n`).join(''))
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  if (code !== 0) throw new Error(`cpio ended with ${code}`)
  return Buffer.concat(pieces)
}

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

export function linuxGuest(): StagedGuest {
  const console = makeConsole()
  return {
    describe: async () => {
      const { kernel, initramfs } = await linuxFiles()
      return description(kernel, initramfs)
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

const description = (kernel: string, initramfs: string): string => `<domain type='qemu'>
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
  </devices>
</domain>
`

type LinuxFiles = { readonly kernel: string; readonly initramfs: string }

async function linuxFiles(): Promise<LinuxFiles> {
  const files = { kernel: join(KEPT, 'vmlinuz'), initramfs: join(KEPT, 'initramfs') }
  const busybox = join(KEPT, 'busybox')
  const kept = new Set(await readdir(KEPT).catch((): string[] => []))
  if (!kept.has('vmlinuz') || !kept.has('busybox')) await fetchFiles(files.kernel, busybox)
  await packInitramfs(busybox, files.initramfs)
  return files
}

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
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** Whoever is ended in between leaves no half of a file behind under that name. */
async function place(from: string, to: string): Promise<void> {
  await copyFile(from, `${to}.new`)
  await rename(`${to}.new`, to)
}

const INIT = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
number=0
while :; do
  number=$((number + 1))
  echo "tick $number"
  /bin/busybox usleep 100000
done
`

async function packInitramfs(busybox: string, into: string): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-initramfs-'))
  try {
    for (const name of ['bin', 'dev']) await mkdir(join(folder, name))
    await copyFile(busybox, join(folder, 'bin/busybox'))
    await writeFile(join(folder, 'init'), INIT)
    for (const name of ['bin/busybox', 'init']) await chmod(join(folder, name), 0o755)
    const names = ['bin', 'bin/busybox', 'dev', 'init']
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

import { execFile, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import {
  access,
  chmod,
  copyFile,
  cp,
  mkdir,
  readFile,
  readdir,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync, gunzipSync } from 'node:zlib'
import { cpio, folder, program } from './cpio.ts'
import type { Entry } from './cpio.ts'
import { begin, firstProgram, guestProgram, inittab, libvirtd, shell } from './xen-dom0.ts'
import { diskOf, makeSmall } from './xen-small.ts'

/**
 * What a Xen host of the lab boots from, made of Debian's packages once and kept until what it is made of changes:
 *
 *     xen    vmlinux    initrd    dom0.ext4    small.img
 *
 * The packages are unpacked as they are, without their scripts, into a folder that becomes dom0's file system. In it are
 * `xl`, libvirtd, the Node that runs this, Ferry's own helper, and what guests boot.
 */
export async function xenImage(): Promise<string> {
  const texts = [begin, firstProgram, guestProgram, inittab, libvirtd, shell, process.version]
  const own = ['xen-image.ts', 'xen-small.ts', 'xen-guest.c', 'xen-boot.S']
  const sources = [...own.map((name) => join(import.meta.dirname, name)), RESUME]
  const read = await Promise.all(sources.map((file) => readFile(file, 'utf8')))
  const made = JSON.stringify([packages, modules, ...texts, ...read])
  const kept = join(KEPT, createHash('sha256').update(made).digest('hex').slice(0, 24))
  if (await isThere(join(kept, 'dom0.ext4'))) return kept
  const fresh = `${kept}.${process.pid}`
  try {
    await build(fresh)
    await rename(join(fresh, 'boot'), kept)
    await forgetOld()
  } finally {
    await rm(fresh, { recursive: true, force: true })
  }
  return kept
}

/** Each takes 300 MB. Another tree, or a lab that runs, may use one that is not old. */
async function forgetOld(): Promise<void> {
  for (const name of await readdir(KEPT)) {
    const { mtimeMs } = await stat(join(KEPT, name))
    if (Date.now() - mtimeMs > OLD_MS) await rm(join(KEPT, name), { recursive: true, force: true })
  }
}

const OLD_MS = 24 * 60 * 60_000
const ROOT = join(import.meta.dirname, '..', '..')
const KEPT = join(ROOT, 'node_modules', '.cache', 'ferry', 'xen')
const RESUME = join(ROOT, 'host-agent', 'drivers', 'xen', 'resume.c')

const packages = [
  'bash coreutils sed grep util-linux mount kmod iproute2 procps busybox-static socat base-files',
  'libc-bin netbase libstdc++6 xen-system-amd64 libxen-dev linux-image-amd64',
  'qemu-system-xen libvirt-daemon libvirt-daemon-driver-xen libvirt-clients',
].flatMap((names) => names.split(' '))
/** They come with those, and nothing here uses them: what installs packages, Debian's own initrd, pygrub. */
const unused =
  /^(python3|libpython3|perl|libperl|initramfs-tools|klibc|libklibc|udev|dpkg|debconf|adduser|ucf|usrmerge|passwd|cpio|tar$|logsave|grub|libx11|manpages|linux-headers)/
const isKernel = (name: string) => /^linux-image-\d.*-amd64$/.test(name)

const modules = [
  'virtio_pci virtio_blk virtio_net crc32c_generic ext4 9pnet_virtio 9p',
  'xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs',
  'bridge xen-blkback xen-netback xen-blkfront xen-netfront',
].flatMap((names) => names.split(' '))
const needed = ['virtio_pci', 'virtio_blk', 'crc32c_generic', 'ext4']
/** Of the guest. */
const fronts = ['xen-blkfront', 'xen-netfront']

async function build(folder: string): Promise<void> {
  const [root, kernel, boot] = ['root', 'kernel', 'boot'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ]
  for (const each of [root, kernel, boot]) await mkdir(each, { recursive: true })
  await unpack(await download(join(folder, 'apt')), root, kernel)
  await putLinks(root)
  const version = (await readdir(join(kernel, 'lib/modules')))[0] ?? ''
  await writeFile(
    join(boot, 'vmlinux'),
    kernelIn(await readFile(join(kernel, 'boot', `vmlinuz-${version}`))),
  )
  const xen = (await readdir(join(root, 'boot'))).find((name) => /^xen-.*-amd64\.gz$/.test(name))
  await writeFile(
    join(boot, 'xen'),
    gunzipSync(await readFile(join(root, 'boot', xen ?? 'xen-amd64.gz'))),
  )
  const [early, ofGuest] = await keepModules(root, join(kernel, 'lib/modules', version), version)
  await writeFile(join(boot, 'initrd'), cpio(await firstFiles(root, early)))
  await furnish(root, join(boot, 'vmlinux'), await entriesOf(root, ofGuest))
  await diskOf(join(root, 'guest/small'), join(boot, 'small.img'))
  const made = join(boot, 'dom0.ext4')
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', '-O', '^has_journal', '-d', root, made, '1G'])
}

/** All packages with what they depend on, as if onto an empty system. */
async function download(apt: string): Promise<string> {
  const archives = join(apt, 'archives')
  await mkdir(join(archives, 'partial'), { recursive: true })
  await writeFile(join(apt, 'status'), '')
  const settings = [
    `Dir::State::status=${join(apt, 'status')}`,
    `Dir::Cache=${apt}`,
    `Dir::Cache::archives=${archives}`,
    'APT::Sandbox::User=root',
    'Debug::NoLocking=1',
  ]
  const words = ['-y', '-qq', '--no-install-recommends', '--download-only']
  const options = settings.flatMap((setting) => ['-o', setting])
  await run('apt-get', [...options, ...words, 'install', ...packages])
  return archives
}

async function unpack(archives: string, root: string, kernel: string): Promise<void> {
  for (const name of ['bin', 'sbin', 'lib', 'lib64', 'lib32', 'libx32']) {
    await mkdir(join(root, 'usr', name), { recursive: true })
    await symlink(`usr/${name}`, join(root, name))
  }
  for (const file of await readdir(archives)) {
    const name = file.split('_')[0] ?? ''
    const isUnused = !file.endsWith('.deb') || (unused.test(name) && !isKernel(name))
    if (isUnused) continue
    await untar(join(archives, file), isKernel(name) ? kernel : root)
  }
}

/** `tar` follows the links that are there, as the packages expect; `dpkg-deb -x` would replace them. */
async function untar(file: string, into: string): Promise<void> {
  const left = ['doc', 'man', 'locale', 'info', 'lintian'].map(
    (name) => `--exclude=./usr/share/${name}/*`,
  )
  const reader = spawn('dpkg-deb', ['--fsys-tarfile', file], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const tar = spawn(
    'tar',
    ['-x', '--keep-directory-symlink', '-C', into, '--exclude=*.a', ...left],
    {
      stdio: [reader.stdout, 'ignore', 'inherit'],
    },
  )
  const [code] = (await once(tar, 'close')) as [number]
  if (code !== 0) throw new Error(`${file} cannot be unpacked`)
}

/** What the packages' scripts would have made. */
async function putLinks(root: string): Promise<void> {
  for (const name of ['proc', 'sys', 'dev', 'run', 'tmp', 'root', 'lab', 'var/log', 'var/lib'])
    await mkdir(join(root, name), { recursive: true })
  await rm(join(root, 'var/run'), { recursive: true, force: true })
  await rm(join(root, 'var/lock'), { recursive: true, force: true })
  await symlink('/run', join(root, 'var/run'))
  await symlink('/run/lock', join(root, 'var/lock'))
  await rm(join(root, 'bin/sh'), { force: true })
  await symlink('bash', join(root, 'bin/sh'))
  for (const name of ['awk', 'hostname', 'which'])
    if (!(await isThere(join(root, 'bin', name)))) await symlink('busybox', join(root, 'bin', name))
  await writeFile(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/bash\n')
  await writeFile(join(root, 'etc/group'), 'root:x:0:\n')
  await run('chroot', [root, '/sbin/ldconfig'])
}

const SETUP_SECTORS_AT = 0x1f1
const PAYLOAD_OFFSET_AT = 0x248
const PAYLOAD_BYTES_AT = 0x24c
const SECTOR_BYTES = 512

/** Out of a bzImage ("The Linux/x86 Boot Protocol"): to have it unpacked by the guest's own code takes long here. */
function kernelIn(image: Buffer): Buffer {
  const setup = ((image[SETUP_SECTORS_AT] ?? 0) + 1) * SECTOR_BYTES
  const from = setup + image.readUInt32LE(PAYLOAD_OFFSET_AT)
  // Its last four bytes say how large it is when it is unpacked.
  const packed = image.subarray(from, from + image.readUInt32LE(PAYLOAD_BYTES_AT) - 4)
  const { stdout } = spawnSync('xz', ['-dc', '--single-stream'], {
    input: packed,
    maxBuffer: 512 * 1024 ** 2,
  })
  if (stdout.subarray(1, 4).toString() !== 'ELF')
    throw new Error('the kernel is not packed as xz, as those of Debian 12 are')
  return stdout
}

/** @returns those that are needed before there is a file system, in their order; and those of the guest. */
async function keepModules(
  root: string,
  from: string,
  version: string,
): Promise<[early: string[], ofGuest: string[]]> {
  const there = join(root, 'lib/modules', version)
  await rm(join(root, 'lib/modules'), { recursive: true, force: true })
  await cp(from, there, { recursive: true })
  await run('chroot', [root, '/sbin/depmod', '-a', version])
  const filesOf = async (names: readonly string[]) => {
    const found = new Set<string>()
    for (const name of names) {
      const words = [root, '/sbin/modprobe', '-S', version, '--show-depends', name]
      for (const line of (await run('chroot', words)).split('\n'))
        if (line.startsWith('insmod ')) found.add(line.split(' ')[1] ?? '')
    }
    return [...found]
  }
  const kept = new Set(await filesOf(modules))
  const early = await filesOf(needed)
  const ofGuest = await filesOf(fronts)
  for (const file of await readdir(there, { recursive: true, withFileTypes: true })) {
    const path = join(file.parentPath, file.name)
    if (file.isFile() && path.endsWith('.ko') && !kept.has(path.slice(root.length))) await rm(path)
  }
  await run('chroot', [root, '/sbin/depmod', '-a', version])
  return [early, ofGuest]
}

const entriesOf = (root: string, modules: readonly string[]): Promise<Entry[]> =>
  Promise.all(
    modules.map(async (path) =>
      program(`modules/${basename(path)}`, await readFile(join(root, path))),
    ),
  )

async function firstFiles(root: string, early: readonly string[]): Promise<Entry[]> {
  const order = early.map((path) => `${basename(path)}\n`).join('')
  return [
    ...['bin', 'dev', 'proc', 'root', 'modules'].map(folder),
    program('bin/busybox', await readFile(join(root, 'bin/busybox'))),
    program('modules/order', Buffer.from(order)),
    ...(await entriesOf(root, early)),
    program('init', Buffer.from(firstProgram)),
  ]
}

/** The lab's own: its shell, Node, Ferry's helper, and guests. */
async function furnish(root: string, kernel: string, modules: readonly Entry[]): Promise<void> {
  const put = async (path: string, text: string, mode: number) => {
    await mkdir(dirname(join(root, path)), { recursive: true })
    await writeFile(join(root, path), text)
    await chmod(join(root, path), mode)
  }
  await put('lab/begin', begin, 0o755)
  await put('lab/shell', shell, 0o755)
  await put('etc/inittab', inittab, 0o644)
  await put('etc/libvirt/libvirtd.conf', libvirtd, 0o644)
  await fitCpu(join(root, 'usr/share/libvirt/cpu_map/x86_kvm64.xml'))
  await mkdir(join(root, 'guest'))
  await copyFile(kernel, join(root, 'guest/vmlinux'))
  const busybox = await readFile(join(root, 'bin/busybox'))
  const guest = cpio([
    ...['bin', 'dev', 'proc', 'modules'].map(folder),
    program('bin/busybox', busybox),
    ...modules,
    program('init', Buffer.from(guestProgram)),
  ])
  await writeFile(join(root, 'guest/initrd'), gzipSync(guest, { level: 1 }))
  await makeSmall(join(root, 'guest/small'))
  await copyFile(process.execPath, join(root, 'usr/bin/node'))
  const libraries = join(root, 'usr/lib/x86_64-linux-gnu')
  const helper = join(root, 'usr/local/lib/ferry/xen-resume')
  await mkdir(dirname(helper), { recursive: true })
  const where = [`-I${join(root, 'usr/include')}`, `-L${libraries}`, `-Wl,-rpath-link,${libraries}`]
  await run('cc', ['-O2', '-Wall', '-o', helper, RESUME, ...where, '-lxenlight', '-lxentoollog'])
  // What else libvirtd would load needs more of a system than there is here.
  for (const name of ['interface', 'nodedev', 'nwfilter', 'qemu', 'secret'])
    await rm(join(libraries, 'libvirt/connection-driver', `libvirt_driver_${name}.so`))
  for (const name of ['boot', 'usr/include', 'usr/share/doc'])
    await rm(join(root, name), { recursive: true, force: true })
}

/**
 * Xen hides SEP on the processor that QEMU shows it, and libvirt's driver for Xen does not start where no model of its
 * own fits what Xen shows ("Cannot find suitable CPU model for given data"): one of them is made to fit.
 */
async function fitCpu(model: string): Promise<void> {
  const text = await readFile(model, 'utf8')
  await writeFile(model, text.replace(/^.*name='sep'.*\n/m, ''))
}

async function run(command: string, words: readonly string[]): Promise<string> {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' }
  const { stdout } = await promisify(execFile)(command, words, { env, maxBuffer: 64 * 1024 ** 2 })
  return stdout
}

const isThere = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  )

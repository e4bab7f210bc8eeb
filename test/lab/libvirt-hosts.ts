import { execFile, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import {
  appendFile,
  copyFile,
  mkdir,
  open,
  readFile,
  readdir,
  readlink,
  writeFile,
} from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { until } from '../until.ts'
import { CERTIFICATES, certify, makeAuthority } from './libvirt-certificates.ts'

/**
 * Hosts with a libvirtd each, on one machine, as root. A host is a process that is the first of a PID namespace of its
 * own, so that all that ran there ends with it; with mounts of its own over the folders that libvirt keeps for itself, a
 * host name and a network. Sockets and logs lie under the host's folder and can be reached from outside.
 *
 *     <folder>/<host>/run/libvirt/libvirt-sock    lib/    log/    etc/
 *
 * A guest whose files lie elsewhere, in /tmp say, sees them on every host: that is the shared storage.
 */
export type LibvirtHosts = {
  readonly socket: (host: string) => string
  /** The first process of a host, in whose namespaces all the others are. */
  readonly pid: (host: string) => Promise<number>
  /** Asks the host's libvirtd as an operator would; throws with what virsh said. */
  readonly virsh: (host: string, ...words: string[]) => Promise<string>
  /** Signals libvirtd, whose guests go on, and waits until it has ended. */
  readonly end: (host: string, signal: NodeJS.Signals) => Promise<void>
  readonly start: (host: string) => Promise<void>
  /** What a command begins with that is to see the host's own storage under /var/lib/libvirt, as libvirtd does. */
  readonly seeing: (host: string) => readonly string[]
  /** That storage, from outside. */
  readonly storage: (host: string) => string
  /** From now on that host finds an address by its name. */
  readonly resolve: (host: string, name: string, address: string) => Promise<void>
  readonly close: () => Promise<void>
}

const COME_UP_MS = 60_000

export async function openLibvirtHosts(
  folder: string,
  names: readonly string[],
  { hasCertificates = false }: { readonly hasCertificates?: boolean } = {},
): Promise<LibvirtHosts> {
  const hosts = new Map<string, ChildProcess>()
  const socket = (host: string) => join(folder, host, 'run/libvirt/libvirt-sock')
  const virsh = async (host: string, ...words: string[]) => {
    const uri = `qemu+unix:///system?socket=${socket(host)}`
    const { stdout } = await promisify(execFile)('virsh', ['--quiet', '--connect', uri, ...words])
    return stdout
  }
  const firstOf = async (host: string) => {
    const pid = hosts.get(host)?.pid
    const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')
    return Number(children.trim())
  }
  const start = async (host: string) => {
    const first = String(await firstOf(host))
    const output = await open(join(folder, host, 'libvirtd.out'), 'a')
    const inside = ['--target', first, '--mount', '--uts', '--net', '--ipc', '--pid']
    spawn('nsenter', [...inside, 'libvirtd', '--config', '/etc/libvirt/libvirtd.conf'], {
      detached: true,
      stdio: ['ignore', output.fd, output.fd],
    }).unref()
    await output.close()
    const answers = () =>
      virsh(host, 'version').then(
        () => true,
        () => false,
      )
    await until(`libvirtd of ${host} to answer`, answers, COME_UP_MS)
  }
  const libvirtd = async (host: string) => {
    const namespace = await readlink(`/proc/${await firstOf(host)}/ns/pid`)
    for (const name of await readdir('/proc')) {
      const its = await readFile(`/proc/${name}/comm`, 'utf8').catch(() => '')
      if (its.trim() !== 'libvirtd') continue
      if ((await readlink(`/proc/${name}/ns/pid`).catch(() => '')) === namespace)
        return Number(name)
    }
    return undefined
  }
  const close = async () => {
    await Promise.all(
      [...hosts.values()].map(
        (child) =>
          new Promise<void>((resolve) => {
            child.once('exit', () => resolve())
            child.kill('SIGKILL')
          }),
      ),
    )
  }
  const authority = join(folder, 'authority')
  try {
    if (hasCertificates) await makeAuthority(authority)
    for (const [nth, host] of names.entries()) {
      const settings = hasCertificates ? `${guestSettings}${certificateSettings}` : guestSettings
      const its = join(folder, host, 'etc', CERTIFICATES)
      if (hasCertificates) await certify(authority, its, host)
      hosts.set(host, await openHost(join(folder, host), nth + 1, settings))
      await start(host)
    }
  } catch (error) {
    await close()
    throw error
  }
  return {
    socket,
    pid: firstOf,
    virsh,
    start,
    end: async (host, signal) => {
      const pid = await libvirtd(host)
      if (pid === undefined) return
      process.kill(pid, signal)
      await until('libvirtd to end', async () => (await libvirtd(host)) !== pid, COME_UP_MS)
    },
    seeing: (host) => [...seeStorage, join(folder, host)],
    storage: (host) => join(folder, host, 'lib'),
    resolve: (host, name, address) =>
      appendFile(join(folder, host, 'hosts'), `${address} ${name}\n`),
    close,
  }
}

const seeStorage = [
  'unshare',
  '--mount',
  '--propagation',
  'private',
  'bash',
  '-c',
  'mount --bind "$0/lib" /var/lib/libvirt && exec "$@"',
]

/** `unshare --kill-child` takes the first process of the host with it, and the kernel then all the others. */
async function openHost(folder: string, number: number, settings: string): Promise<ChildProcess> {
  for (const name of ['run', 'lib', 'cache', 'log/qemu', 'etc/qemu'])
    await mkdir(join(folder, name), { recursive: true })
  await copyFile('/etc/hosts', join(folder, 'hosts'))
  await writeFile(join(folder, 'etc/libvirtd.conf'), daemonSettings(number))
  await writeFile(join(folder, 'etc/qemu.conf'), settings)
  const namespaces = ['--fork', '--pid', '--kill-child', '--mount', '--uts', '--net', '--ipc']
  const child = spawn(
    'unshare',
    [...namespaces, '--propagation', 'private', 'bash', '-c', prepareHost, 'host', folder],
    // What it reads from ends with whoever made it, however that ends.
    { stdio: ['pipe', 'ignore', 'inherit'] },
  )
  const isReady = () =>
    readFile(join(folder, 'run/ready')).then(
      () => true,
      () => false,
    )
  await until('a host to be ready', isReady, COME_UP_MS)
  return child
}

const prepareHost = `
set -e
mount -t proc proc /proc
mount -t sysfs sysfs /sys
hostname "$(basename "$1")"
ip link set lo up
mount --bind "$1/run" /run
mkdir -p /var/cache/libvirt /var/log/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/cache" /var/cache/libvirt
mount --bind "$1/log" /var/log/libvirt
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/hosts" /etc/hosts
touch /run/ready
read || exit 0
`

/** libvirt refuses to move a guest between hosts of one id. */
const daemonSettings = (number: number) => `
host_uuid = "${String(number).repeat(8)}-1111-4111-8111-111111111111"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
`

const guestSettings = `
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
`

/** For those who let libvirt encrypt what it moves; each host proves to the other which one it is. */
const certificateSettings = `
migrate_tls_x509_cert_dir = "/etc/libvirt/${CERTIFICATES}"
migrate_tls_x509_verify = 1
`

// From a bare machine to a running program: `node test/boot.mjs demo|test|hosts|sim|mutations|chaos|bench [...]`.
// Plain JavaScript without dependencies, because nothing is installed yet when it starts.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'

const root = join(import.meta.dirname, '..')

/** What each program is, and what it needs of the system: a command, and Debian's package that brings it. */
const natsServer = { command: 'nats-server', package: 'nats-server' }
const qemu = { command: 'qemu-system-x86_64', package: 'qemu-system-x86' }
const qemuImg = { command: 'qemu-img', package: 'qemu-utils' }
const libvirt = [
  { command: 'libvirtd', package: 'libvirt-daemon-system' },
  { command: 'virsh', package: 'libvirt-clients' },
  { command: 'unshare', package: 'util-linux' },
  { command: 'ip', package: 'iproute2' },
]
const openssl = { command: 'openssl', package: 'openssl' }
/** Xen's hosts are made of packages that are not installed here: these make, and run, their image. */
const xen = [
  { command: 'mke2fs', package: 'e2fsprogs' },
  { command: 'xz', package: 'xz-utils' },
  { command: 'cc', package: 'build-essential' },
  { command: 'setpriv', package: 'util-linux' },
]
const programs = {
  demo: { file: 'test/demo/demo.ts', needs: [natsServer, qemu, qemuImg] },
  test: { file: 'test/run.ts', needs: [natsServer, qemu, qemuImg] },
  hosts: {
    file: 'test/run.ts',
    args: ['--hosts'],
    needs: [natsServer, qemu, qemuImg, ...libvirt, ...xen],
  },
  sim: { file: 'test/simulator/sim.ts', needs: [] },
  mutations: { file: 'test/simulator/mutate.ts', needs: [] },
  bench: { file: 'test/bench/bench.ts', needs: [natsServer, qemu, qemuImg] },
  'bench libvirt': {
    file: 'test/bench/libvirt.ts',
    needs: [natsServer, qemu, qemuImg, ...libvirt, openssl],
    // What passes on its loopback is what is measured.
    inside: ['unshare', '--net', 'sh', '-c', 'ip link set lo up && exec "$@"', 'sh'],
  },
  chaos: { file: 'test/real/chaos/chaos.ts', needs: [natsServer, qemu, qemuImg] },
}

const [name = '', ...rest] = process.argv.slice(2)
/** One that is made of two words has one of its own. */
const isOfTwo = programs[`${name} ${rest[0]}`] !== undefined
const program = isOfTwo ? programs[`${name} ${rest[0]}`] : programs[name]
const args = isOfTwo ? rest.slice(1) : rest
if (program === undefined)
  stop(`There is no program '${name}'; there are: ${Object.keys(programs).join(', ')}.`)
requireNode(20, 15)
installPackages()
installTools(args.includes('--simulated') ? [natsServer] : program.needs)
// Ctrl-C reaches the program as well, which puts away what it started; this waits for it.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => {})
const words = [...(program.args ?? []), ...args]
const node = [process.execPath, '--import', 'tsx', join(root, program.file), ...words]
const [command, ...its] = [...(program.inside ?? []), ...node]
const { status } = run(command, its)
process.exit(status ?? 1)

function requireNode(major, minor) {
  const [haveMajor = 0, haveMinor = 0] = process.versions.node.split('.').map(Number)
  if (haveMajor > major || (haveMajor === major && haveMinor >= minor)) return
  stop(`Ferry needs Node ${major}.${minor} or later; this is ${process.version}.`)
}

/** The pinned pnpm installs what the lockfile says, when that is not what stands here already. */
function installPackages() {
  const stampFile = join(root, 'node_modules', '.installed')
  const manifest = readFileSync(join(root, 'package.json'), 'utf8')
  const lockfile = readFileSync(join(root, 'pnpm-lock.yaml'))
  const stamp = createHash('sha256')
    .update(manifest)
    .update(lockfile)
    .update(process.version)
    .digest('hex')
  if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) return

  const { packageManager } = JSON.parse(manifest)
  say(`Installing the packages with ${packageManager} ...`)
  const exec = [
    'exec',
    '--yes',
    `--package=${packageManager}`,
    '--',
    'pnpm',
    'install',
    '--frozen-lockfile',
  ]
  const done = run('npm', exec, { stdio: ['ignore', 'ignore', 'inherit'] })
  if (done.status !== 0) stop(`\`npm ${exec.join(' ')}\` failed; run it by hand to see why.`)
  writeFileSync(stampFile, stamp)
}

/** What is missing comes from the system's packages; nothing is installed that is there already. */
function installTools(needs) {
  const missing = needs.filter(({ command }) => !isOnPath(command)).map((need) => need.package)
  if (missing.length === 0) return
  const byHand = `apt-get install --no-install-recommends ${missing.join(' ')}`
  if (!isOnPath('apt-get')) stop(`Ferry needs ${missing.join(', ')}. On Debian: ${byHand}`)

  const asRoot = process.getuid() === 0 ? [] : ['sudo', '--non-interactive']
  const apt = (...words) => {
    const [command, ...rest] = [
      ...asRoot,
      'apt-get',
      '-o',
      'DPkg::Lock::Timeout=120',
      '-qq',
      ...words,
    ]
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
    return run(command, rest, { env, stdio: ['ignore', 'ignore', 'inherit'] }).status === 0
  }
  say(`Installing ${missing.join(', ')} from the system's packages ...`)
  const install = ['install', '--yes', '--no-install-recommends', ...missing]
  // A machine with fresh package lists needs no update; one without any cannot do without.
  if (!apt(...install) && !(apt('update') && apt(...install)))
    stop(`Please install it by hand: sudo ${byHand}`)
}

function isOnPath(command) {
  return (process.env.PATH ?? '')
    .split(delimiter)
    .some((folder) => existsSync(join(folder, command)))
}

function run(command, args, options = {}) {
  return spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options })
}

function say(sentence) {
  process.stderr.write(`${sentence}\n`)
}

function stop(sentence) {
  say(sentence)
  process.exit(1)
}

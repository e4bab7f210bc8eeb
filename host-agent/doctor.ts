import { execFile } from 'node:child_process'
import { access, constants, mkdir, readFile, readdir, statfs } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { parse } from '@ferry/schemas/parse'
import { bad, doubtful, good } from '@ferry/events/check'
import type { Check } from '@ferry/events/check'
import { systemClock } from '@ferry/events/clock'
import { checkDepth } from './folders.ts'
import { VmFile } from './drivers/qemu/definition.ts'
import { LibvirtMissing, probeLibvirt } from './drivers/libvirt/probe.ts'
import { probeLibxl } from './drivers/libxl/probe.ts'
import { XenMissing, probeXen } from './drivers/xen/probe.ts'
import { openXl } from './drivers/xen/xl.ts'
import { QemuMissing, neededCapabilities, probeQemu } from './drivers/qemu/probe.ts'
import { isLibxl, libvirtPlaces, readHostFile, xenPlaces } from './settings.ts'
import type { HostFile } from './settings.ts'

/** What a host needs to be an agent's: its hypervisor, and with its `host.json` its ports, storage and definitions. */
export async function checkHost(configFile: string | undefined): Promise<Check[]> {
  if (configFile === undefined) return checkQemu('qemu-system-x86_64')
  const settings = await readHostFile(configFile)
  return [
    ...(await checkHypervisor(settings)),
    await checkPort(settings),
    await checkStorage(settings),
    ...(settings.driver === 'qemu' ? await checkDefinitions(settings) : []),
  ]
}

async function checkHypervisor(settings: HostFile): Promise<Check[]> {
  switch (settings.driver) {
    case 'qemu':
      return checkQemu(settings.qemu?.binary ?? 'qemu-system-x86_64')
    case 'libvirt':
      return isLibxl(settings) ? checkLibxl(settings) : checkLibvirt(settings)
    case 'xen':
      return checkXen(xenPlaces(settings).resumer)
    case 'simulated':
      return []
  }
}

async function checkLibvirt(settings: HostFile): Promise<Check[]> {
  const { socket, directAddress } = libvirtPlaces(settings)
  try {
    const { hypervisor, canMigrateByPhases } = await probeLibvirt({ socket, clock: systemClock })
    const { hypervisorVersion, machines, accelerators } = hypervisor
    return [
      canMigrateByPhases
        ? good('libvirt', `${hypervisorVersion}, ${machines.length} machine types`)
        : bad(
            'libvirt',
            `${hypervisorVersion} cannot migrate by phases with parameters`,
            'Install libvirt 1.1 or later.',
          ),
      accelerators.includes('kvm')
        ? good('KVM', 'libvirt offers it')
        : doubtful('KVM', 'libvirt does not offer it', 'Guests run with TCG here.'),
      await checkQemuImg('No guest can bring its disks here without it (migrate --copy-disks)'),
      ...(directAddress === undefined ? [] : [await checkDirect(directAddress)]),
    ]
  } catch (error) {
    if (!(error instanceof LibvirtMissing)) throw error
    const { cause } = error
    return [
      bad(
        'libvirt',
        `${error.message}${cause instanceof Error ? ` (${cause.message})` : ''}`,
        'Start it, and run the agent as root.',
      ),
    ]
  }
}

async function checkLibxl(settings: HostFile): Promise<Check[]> {
  const { socket } = libvirtPlaces(settings)
  const { resumer } = xenPlaces(settings)
  const xl = openXl({ clock: systemClock, resumer })
  try {
    const { hypervisor } = await probeLibxl({ socket, xl, clock: systemClock })
    const { hypervisorVersion, machines } = hypervisor
    return [good('libvirt', `${hypervisorVersion}, guests of ${machines.join(', ')}`)]
  } catch (error) {
    if (!(error instanceof LibvirtMissing) && !(error instanceof XenMissing)) throw error
    const { cause } = error
    return [
      bad(
        'libvirt',
        `${error.message}${cause instanceof Error ? ` (${cause.message})` : ''}`,
        'On Debian: apt-get install libvirt-daemon-system libvirt-daemon-driver-xen; run the agent as root in dom0.',
      ),
    ]
  }
}

async function checkXen(resumer: string): Promise<Check[]> {
  try {
    const xl = openXl({ clock: systemClock, resumer })
    const { hypervisor, canResume } = await probeXen({ xl, resumer })
    return [
      good('Xen', `${hypervisor.hypervisorVersion}, guests of ${hypervisor.machines.join(', ')}`),
      canResume
        ? good('xen-resume', resumer)
        : bad(
            'xen-resume',
            `${resumer} is missing`,
            'Guests may not leave without it: compile host-agent/drivers/xen/resume.c.',
          ),
    ]
  } catch (error) {
    if (!(error instanceof XenMissing)) throw error
    return [bad('Xen', error.message, 'Run the agent as root in dom0.')]
  }
}

async function checkQemu(binary: string): Promise<Check[]> {
  try {
    const { hypervisor, capabilities } = await probeQemu({
      binary,
      accelerators: 'auto',
      clock: systemClock,
    })
    const lacking = Object.values(neededCapabilities)
      .flat()
      .find((capability) => !capabilities.includes(capability))
    const hasDevice = await access('/dev/kvm', constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    )
    return [
      lacking === undefined
        ? good(
            'QEMU',
            `${hypervisor.hypervisorVersion}, ${hypervisor.machines.length} machine types`,
          )
        : bad(
            'QEMU',
            `${hypervisor.hypervisorVersion} has no ${lacking}`,
            'Install QEMU 3.0 or later.',
          ),
      hypervisor.accelerators.includes('kvm')
        ? good('/dev/kvm', 'usable')
        : doubtful(
            '/dev/kvm',
            hasDevice ? 'is there, and too slow to be of use' : 'is not usable',
            'Guests run with TCG here. For KVM: virtualization in the firmware, the kvm module, and the right to open it.',
          ),
      await checkQemuImg('Guests with disks cannot be moved without it'),
    ]
  } catch (error) {
    if (!(error instanceof QemuMissing)) throw error
    return [bad('QEMU', error.message, 'Install it, or run this host with the driver "simulated".')]
  }
}

async function checkQemuImg(whatFor: string): Promise<Check> {
  const tool = 'qemu-img'
  try {
    const { stdout } = await promisify(execFile)(tool, ['--version'])
    return good(tool, stdout.split('\n')[0] ?? '')
  } catch {
    return doubtful(tool, 'is missing', `${whatFor}: apt-get install qemu-utils`)
  }
}

const problemListening = (host: string, port: number): Promise<NodeJS.ErrnoException | undefined> =>
  new Promise((resolve) => {
    const server = createServer()
    server.once('error', resolve)
    server.listen(port, host, () => server.close(() => resolve(undefined)))
  })

/** Where this host's QEMUs are to listen, on a port that libvirt chooses. */
async function checkDirect(address: string): Promise<Check> {
  const what = 'direct images'
  const problem = await problemListening(address, 0)
  return problem === undefined
    ? good(what, `QEMUs of other hosts bring them to ${address}, in the clear`)
    : bad(
        what,
        `${address}: ${problem.message}`,
        'Name an address of this machine as libvirt.directAddress in host.json.',
      )
}

async function checkPort({ listen: { host, port } }: HostFile): Promise<Check> {
  const what = 'transfer port'
  if (port === 0)
    return doubtful(what, 'any free one', 'Name one in host.json, and let it through the firewall.')
  const problem = await problemListening(host, port)
  if (problem === undefined) return good(what, `${host}:${port} is free`)
  return problem.code === 'EADDRINUSE'
    ? doubtful(
        what,
        `${host}:${port} is taken`,
        'Fine if it is the agent of this host; else name another one in host.json.',
      )
    : bad(
        what,
        `${host}:${port}: ${problem.message}`,
        'Name an address of this machine in host.json.',
      )
}

const LOW_BYTES = 64 * 1024 ** 2

async function checkStorage({ stateDirectory }: HostFile): Promise<Check> {
  const what = 'state directory'
  try {
    await mkdir(stateDirectory, { recursive: true, mode: 0o700 })
    await access(stateDirectory, constants.W_OK)
    checkDepth(join(stateDirectory, 'guests'))
    const { bavail, bsize } = await statfs(stateDirectory)
    const free = `${Math.round((bavail * bsize) / 1024 ** 2)} MiB free`
    return bavail * bsize < LOW_BYTES
      ? bad(
          what,
          `${stateDirectory}: ${free}`,
          'Make room: keys and what runs here are written there.',
        )
      : good(what, `${stateDirectory}: ${free}`)
  } catch (error) {
    return bad(
      what,
      error instanceof Error ? error.message : String(error),
      'Name another one in host.json.',
    )
  }
}

async function checkDefinitions({ definitions }: HostFile): Promise<Check[]> {
  const files = await readdir(definitions).catch(() => undefined)
  if (files === undefined)
    return [
      doubtful(
        'definitions',
        `there is no folder ${definitions}`,
        'Only guests that arrive can run here.',
      ),
    ]
  const wrong: Check[] = []
  for (const file of files.filter((name) => name.endsWith('.json'))) {
    const path = join(definitions, file)
    try {
      parse(VmFile, JSON.parse(await readFile(path, 'utf8')), path)
    } catch (error) {
      wrong.push(
        bad('definition', error instanceof Error ? error.message : String(error), `Mend ${path}.`),
      )
    }
  }
  return wrong.length > 0 ? wrong : [good('definitions', `${files.length} in ${definitions}`)]
}

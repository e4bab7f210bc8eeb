import { execFile, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { copyFile, mkdir, readFile, truncate } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePort } from '@ferry/coordinator/embedded/nats-server'
import { systemClock, within } from '@ferry/events/clock'
import { until } from '../until.ts'
import { xenImage } from './xen-image.ts'

/**
 * Xen hosts on one machine, as guests of QEMU without KVM: Xen, a dom0 with `xl`, and what runs beside it there.
 *
 *     this machine ── 10.0.2.2 ── rack1 ── 192.168.77.1 ─── 192.168.77.2 ── rack2 ── 10.0.2.2 ── this machine
 *
 * A folder of this machine lies in each dom0 under the same path. Real time says nothing here: everything takes some
 * tens of times as long as on hosts of iron.
 */
export type XenHosts = {
  /** What a host's agent is called by the others' agents. */
  readonly address: (host: string) => string
  /** Runs a program in dom0; throws with what it said when it did not end with 0. */
  readonly run: (host: string, ...words: string[]) => Promise<string>
  /** The same with a line for dom0's shell, and whatever its end. */
  readonly shell: (host: string, line: string, limitMs?: number) => Promise<Said>
  /** Bytes of a line's output, and nothing else; `input` is written to it. */
  readonly pipe: (host: string, line: string) => ReturnType<typeof createConnection>
  /** The shared disk, as it was at first. */
  readonly renewDisk: () => Promise<void>
  /** libvirtd with its driver for Xen, anew where one has run before. */
  readonly startLibvirt: (host: string) => Promise<void>
  /** Where dom0's port is reached from this machine. */
  readonly port: (host: string) => number
  readonly close: () => Promise<void>
}

/** By whom a host's guests are made, moved and ended. */
export type XenTool = 'xl' | 'libxl'

export type Said = { readonly code: number; readonly text: string }

/** From which this machine is reached out of a dom0. */
export const OUTSIDE = '10.0.2.2'
/** A block device of every dom0, and the same one: the small guest boots from it, and Linux writes to it. */
export const SHARED_DISK = '/dev/vdb'
/** On which guests' cards are, and dom0's own; it leads nowhere else. */
export const BRIDGE = 'br0'
/** Of a guest on it. */
export const GUEST_ADDRESS = '10.7.7.2'

/** The one port of dom0 that can be reached from this machine beside its shell. */
export const SEAT_PORT = 7000

type Host = {
  readonly number: number
  readonly shellPort: number
  readonly seatPort: number
  readonly qemu: ChildProcess
}

const COME_UP_MS = 240_000
const SAY_MS = 180_000
const LOOK_MS = 5000
/** A dom0 that is asked again and again has no time for anything else. */
export const LOOK_EVERY_MS = 1500

/** @param folder lies in the dom0s as well, and keeps each host's console and disk. */
export async function openXenHosts(folder: string, names: readonly string[]): Promise<XenHosts> {
  const image = await xenImage()
  const fresh = join(folder, 'small.img')
  await copyFile(join(image, 'small.img'), fresh)
  await copyFile(fresh, sharedIn(folder))
  await truncate(sharedIn(folder), SHARED_BYTES)
  const hosts = new Map<string, Host>()
  const hostNamed = (name: string): Host => {
    const host = hosts.get(name)
    if (host === undefined) throw new Error(`the lab has no host ${name}`)
    return host
  }
  const pipe = (name: string, line: string) => {
    const socket = createConnection({
      host: '127.0.0.1',
      port: hostNamed(name).shellPort,
      allowHalfOpen: true,
    })
    socket.write(`${Buffer.from(line).toString('base64')}\n`)
    return socket
  }
  const shell = async (name: string, line: string, limitMs = SAY_MS): Promise<Said> => {
    const socket = pipe(name, `{ ${line}\n} 2>&1 < /dev/null; printf '\\nended %s' "$?"`)
    try {
      return await within(systemClock, limitMs, `an answer of ${name} to ${line}`, saidOn(socket))
    } finally {
      socket.destroy()
    }
  }
  const close = async () => {
    await Promise.all([...hosts.values()].map(({ qemu }) => ended(qemu)))
  }
  try {
    for (const [nth, name] of names.entries())
      hosts.set(name, await boot(folder, image, names, nth + 1))
    for (const [name, { qemu }] of hosts)
      await until(
        `${name} to come up`,
        async () => {
          if (qemu.exitCode !== null || qemu.signalCode !== null)
            throw new Error(`${name} ended:\n${await consoleOf(folder, name)}`)
          return (await shell(name, 'cat /run/lab.ready', LOOK_MS).catch(() => nothing)).code === 0
        },
        COME_UP_MS,
        LOOK_EVERY_MS,
      )
  } catch (error) {
    const consoles = await Promise.all(names.map((name) => consoleOf(folder, name)))
    await close()
    throw new Error(`the hosts did not come up:\n${consoles.join('\n')}`, { cause: error })
  }
  return {
    address: (name) => addressOf(hostNamed(name).number),
    run: async (name, ...words) => {
      const { code, text } = await shell(name, words.map(quoted).join(' '))
      if (code !== 0) throw new Error(`${words.join(' ')} on ${name} ended with ${code}: ${text}`)
      return text
    },
    shell,
    pipe,
    renewDisk: async () => {
      const [first = ''] = names
      await shell(first, `dd if=${fresh} of=${SHARED_DISK} bs=64k conv=fsync`)
      for (const name of names) await shell(name, `blockdev --flushbufs ${SHARED_DISK}`)
    },
    startLibvirt: async (name) => {
      await shell(name, 'kill -9 $(cat /run/libvirtd.pid)')
      await shell(name, 'rm -f /run/libvirtd.pid; libvirtd -d -p /run/libvirtd.pid')
      const answers = async () => (await shell(name, 'virsh -c xen:///system list')).code === 0
      await until(`libvirtd on ${name} to answer`, answers, COME_UP_MS, LOOK_EVERY_MS)
    },
    port: (name) => hostNamed(name).seatPort,
    close,
  }
}

const addressOf = (number: number) => `192.168.77.${number}`
const nothing: Said = { code: -1, text: '' }

/** For dom0's shell, as one word. */
export const quoted = (word: string): string => `'${word.replaceAll("'", String.raw`'\''`)}'`

async function saidOn(socket: ReturnType<typeof createConnection>): Promise<Said> {
  const pieces: Buffer[] = []
  socket.on('data', (piece) => pieces.push(piece))
  await once(socket, 'end')
  const said = Buffer.concat(pieces).toString('utf8')
  const [, text = '', code] = /^([\s\S]*)\nended (\d+)$/.exec(said) ?? []
  if (code === undefined) throw new Error(`dom0's shell ended early: ${said}`)
  return { code: Number(code), text }
}

const consoleOf = (folder: string, name: string) =>
  readFile(join(folder, name, 'console'), 'utf8').catch(() => '')

async function ended(qemu: ChildProcess): Promise<void> {
  if (qemu.exitCode !== null || qemu.signalCode !== null) return
  const gone = once(qemu, 'exit')
  qemu.kill('SIGKILL')
  await gone
}

const SHARED_BYTES = 4 * 1024 ** 2
const sharedIn = (folder: string) => join(folder, 'shared.img')

const MEMORY_MIB = 1024
const DOM0_MIB = 608
/**
 * What QEMU 7.2 emulates wrongly for Xen is hidden. `smap`: an IRET from user mode reads its stack with the kernel's
 * rights, and dom0's kernel dies. `rdtscp`: a guest that uses it is ended, since Xen is told of another instruction.
 */
const CPU = 'max,-smap,-rdtscp,-xsave'
const XEN = `console=com1 com1=115200 dom0_mem=${DOM0_MIB}M,max:${DOM0_MIB}M dom0_max_vcpus=1 spec-ctrl=no xpti=0 noreboot loglvl=warning guest_loglvl=warning`
const DOM0 = 'console=hvc0 mitigations=off quiet loglevel=4 panic=1'

async function boot(
  folder: string,
  image: string,
  names: readonly string[],
  number: number,
): Promise<Host> {
  const name = names[number - 1] ?? ''
  const own = join(folder, name)
  await mkdir(own, { recursive: true })
  const disk = join(own, 'disk.qcow2')
  const backing = ['-b', join(image, 'dom0.ext4'), '-F', 'raw', disk]
  await promisify(execFile)('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing])
  const [shellPort, seatPort] = [await freePort(), await freePort()]
  const socket = (nth: number) => join(folder, `link${nth}`)
  const link = `local.type=unix,local.path=${socket(number)},remote.type=unix,remote.path=${socket(3 - number)}`
  const lab = `lab.number=${number} lab.name=${name} lab.share=${folder}`
  const forwards = `hostfwd=tcp:127.0.0.1:${shellPort}-:2222,hostfwd=tcp:127.0.0.1:${seatPort}-:${SEAT_PORT}`
  // It ends with whoever made it, however that ends.
  const qemu = spawn(
    'setpriv',
    [
      ...split(`--pdeathsig KILL qemu-system-x86_64 -name xen-${name}`),
      ...split(`-accel tcg,tb-size=192 -cpu ${CPU} -smp 1 -m ${MEMORY_MIB}`),
      ...split(`-nodefaults -display none -no-reboot -serial file:${join(own, 'console')}`),
      ...split(`-kernel ${join(image, 'xen')} -append`),
      XEN,
      '-initrd',
      `${join(image, 'vmlinux')} ${DOM0} ${lab},${join(image, 'initrd')}`,
      ...split(`-drive file=${disk},if=none,id=d0,cache=unsafe -device virtio-blk-pci,drive=d0`),
      ...split(`-drive file=${sharedIn(folder)},if=none,id=d1,format=raw,file.locking=off`),
      ...split(`-device virtio-blk-pci,drive=d1,share-rw=on`),
      ...split(`-netdev user,id=n0,${forwards} -device virtio-net-pci,netdev=n0,romfile=`),
      ...split(`-netdev dgram,id=n1,${link}`),
      ...split(`-device virtio-net-pci,netdev=n1,mac=52:54:00:77:00:0${number},romfile=`),
      ...split(`-virtfs local,path=${folder},mount_tag=share,security_model=none,multidevs=remap`),
    ],
    { stdio: ['ignore', 'inherit', 'inherit'] },
  )
  return { number, shellPort, seatPort, qemu }
}

const split = (words: string) => words.split(' ')

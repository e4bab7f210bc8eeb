import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { LibvirtHosts } from './libvirt-hosts.ts'

/** A cable between two hosts, for those who let libvirt's hosts speak to each other. */
export type Network = {
  readonly addressOf: (host: string) => string
  /** All that has passed it, in both directions. */
  readonly passedBytes: () => Promise<number>
  /** What was sent waits in its sender, and nobody is told. */
  readonly unplug: () => Promise<void>
  readonly plug: () => Promise<void>
}

const NAME = 'ferry0'

/** It ends with the hosts' own networks. */
export async function joinHosts(
  hosts: LibvirtHosts,
  [one, other]: readonly [string, string],
): Promise<Network> {
  const [first, second] = [await hosts.pid(one), await hosts.pid(other)]
  const addresses = new Map([
    [one, '10.77.0.1'],
    [other, '10.77.0.2'],
  ])
  const addressOf = (host: string) => {
    const address = addresses.get(host)
    if (address === undefined) throw new Error(`no cable reaches ${host}`)
    return address
  }
  const run = (command: string, words: string) => promisify(execFile)(command, words.split(' '))
  const peer = `type veth peer name ${NAME} netns ${second}`
  await run('ip', `link add name ${NAME} netns ${first} ${peer}`)
  for (const [pid, host] of [
    [first, one],
    [second, other],
  ] as const) {
    const inside = `--target ${pid} --net ip`
    await run('nsenter', `${inside} address add ${addressOf(host)}/24 dev ${NAME}`)
    await run('nsenter', `${inside} link set ${NAME} up`)
    for (const [name, address] of addresses) await hosts.resolve(host, name, address)
  }
  const turn = async (way: 'up' | 'down') => {
    await run('nsenter', `--target ${first} --net ip link set ${NAME} ${way}`)
  }
  return {
    addressOf,
    unplug: () => turn('down'),
    plug: () => turn('up'),
    passedBytes: async () => {
      const { received, sent } = await countersOf(NAME, first)
      return received + sent
    },
  }
}

/** What an interface has counted, in the network of a process. */
export async function countersOf(
  name: string,
  pid: number,
): Promise<{ readonly received: number; readonly sent: number }> {
  const table = await readFile(`/proc/${pid}/net/dev`, 'utf8')
  const line = table.split('\n').find((each) => each.trim().startsWith(`${name}:`))
  const numbers = line?.split(':')[1]?.trim().split(/\s+/).map(Number) ?? []
  // Eight columns for what came, and as many for what went; bytes are the first of each.
  return { received: numbers[0] ?? Number.NaN, sent: numbers[8] ?? Number.NaN }
}

/** What stands in the file of an agent whose libvirtd is in such a host, and may take images from the other one's QEMU. */
export const settingsIn =
  (folder: string, hosts: LibvirtHosts, { addressOf }: Network) =>
  (host: string) => ({
    libvirt: {
      socket: hosts.socket(host),
      images: join(folder, host, 'images'),
      // One of them is known by its name.
      directAddress: host === 'rack2' ? host : addressOf(host),
    },
  })

import type { Fleet } from '@ferry/events/fleet'
import type { Chance } from './chance.ts'
import type { Disk } from './disk.ts'
import type { Faults } from './faults.ts'
import type { Life } from './life.ts'
import type { LogServer, Message } from './log-server.ts'
import { endGuest } from './machine.ts'
import type { Machine } from './machine.ts'
import { LOG } from './network.ts'
import type { Network } from './network.ts'
import { rashCommand, repeatedMessage, strangeMessage } from './strangers.ts'
import type { Time } from './time.ts'

/** What the world that the weather comes over is made of. */
export type Land = {
  readonly time: Time
  readonly chance: Chance
  readonly faults: () => Faults
  readonly isCalm: () => boolean
  readonly server: LogServer
  readonly network: Network
  readonly machines: ReadonlyMap<string, Machine>
  readonly lives: ReadonlyMap<string, Life>
  readonly disks: ReadonlyMap<string, Disk>
  /** The log folded up to its end. */
  readonly fleet: Fleet
  /** Guests whose real copy was ended by a fault. */
  readonly hurt: Set<string>
  readonly switchOff: (machine: Machine) => void
  /** What is put into the log meanwhile is a stranger's. */
  readonly asJunk: (act: () => void) => void
}

export const SNAPSHOTS = 'snapshots'
const EVERY_MS = 100
/** How many messages a server lacks at the most that was restored from an old copy. */
const OLD_COPY = 300
const FEW = 8

/** What comes over processes, machines, networks, disks and the log from outside. @returns what has to be called once. */
export function weatherOver(land: Land): () => void {
  const { time, chance, faults, server, network, machines, lives, disks, fleet, hurt } = land
  const slipIn = (message: Message | undefined) => {
    if (message !== undefined && server.hasRoom()) server.append(message)
  }
  const loseTail = () => {
    const { length } = server.entries
    const count = chance.happens(0.7) ? 1 + chance.whole(FEW) : chance.whole(OLD_COPY)
    server.stop(chance.between(100, 5000))
    server.putBack(Math.max(0, length - count))
  }
  /** The worst moments to lose it: somebody lets a guest run. Behind each it is as likely as within any second. */
  server.onStored(({ message }) => {
    const type = message.is === 'event' ? message.event.type : undefined
    if (type !== 'Committed' && type !== 'Cancelled' && type !== 'Start') return
    if (chance.happens(faults().lostTailPerSecond)) time.after(chance.between(0, 20), loseTail)
  })

  return function storm() {
    if (land.isCalm()) return
    time.after(EVERY_MS, storm)
    const often = (perSecond: number) => chance.happens((perSecond * EVERY_MS) / 1000)
    const now = faults()
    if (often(now.logStopPerSecond)) server.stop(chance.between(100, 5000))
    if (often(now.logFullPerSecond)) server.fill(chance.between(100, 10_000))
    for (const disk of disks.values())
      if (often(now.diskFullPerSecond)) disk.fill(chance.between(100, 20_000))
    if (often(now.lostTailPerSecond)) loseTail()
    const nodes = [...lives.keys()]
    if (often(now.freezePerSecond * lives.size))
      lives.get(chance.pick(nodes))?.freeze(chance.between(100, 10_000))
    if (often(now.partitionPerSecond * lives.size)) {
      const [one, other] = [chance.pick(nodes), chance.pick([LOG, ...machines.keys()])]
      const ms = chance.between(100, 20_000)
      if (chance.happens(0.7)) network.block(one, other, ms)
      if (chance.happens(0.7)) network.block(other, one, ms)
    }
    for (const machine of machines.values()) {
      const { guests } = machine.world
      if (often(now.hostCrashPerSecond)) land.switchOff(machine)
      for (const vm of guests.keys())
        if (often(now.hypervisorCrashPerSecond)) {
          hurt.add(vm)
          endGuest(machine, vm)
        }
    }
    if (often(now.snapshotRotPerSecond)) rotSnapshot(server, chance)
    if (often(now.rashCommandPerSecond)) slipIn(rashCommand(server, fleet, chance))
    if (often(now.repeatedMessagePerSecond)) slipIn(repeatedMessage(server, fleet, chance))
    if (often(now.junkPerSecond)) land.asJunk(() => slipIn(strangeMessage(server, chance)))
  }
}

/** A register of a snapshot loses a part of its value, or goes; whoever reads it must take another one. */
function rotSnapshot({ registers }: LogServer, chance: Chance): void {
  const stored = [...registers.values()].filter(({ key }) => key.startsWith(`${SNAPSHOTS}/`))
  if (stored.length === 0) return
  const register = chance.pick(stored)
  const { key, value } = register
  if (chance.happens(0.3)) registers.delete(key)
  else {
    const at = chance.whole(value.length)
    registers.set(key, {
      ...register,
      value: `${value.slice(0, at)}${chance.pick(['A', '+', ''])}${value.slice(at + 1)}`,
    })
  }
}

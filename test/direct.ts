import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import type { Duplex, Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { CopyFailed } from '@ferry/host-agent/driver'
import type { Driver, LoadedByHypervisor } from '@ferry/host-agent/driver'
import type { Image } from '@ferry/host-agent/transfer/image'
import { FRAME_HEADER_BYTES } from '@ferry/host-agent/transfer/frames'

/** What simulated hypervisors move images over by themselves: an end for the target, and for the source that comes later. */
export type Cable = {
  readonly listen: (vm: string) => Readable
  /** @throws {CopyFailed} when nobody listens. */
  readonly connect: (vm: string) => Writable
}

/** One that never breaks. */
export function wholeCable(): Cable {
  const ends = new Map<string, Duplex>()
  return {
    listen: (vm) => {
      const end = new PassThrough()
      ends.set(vm, end)
      return end
    },
    connect: (vm) => ends.get(vm) ?? nobody(),
  }
}

const nobody = (): never => {
  throw new CopyFailed({ type: 'HypervisorFailed', message: 'nobody listens' })
}

/**
 * A simulated driver whose hypervisors do what libvirt's do with an image that goes directly: nobody holds them back
 * before they have "completed", and the target's loads whether or not there is an agent.
 *
 * @param hypervisor the same guests, for what goes on without an agent.
 * @param loading what is being loaded on this host, which outlives the agent too.
 */
export function directly(
  driver: Driver,
  hypervisor: Driver,
  cable: Cable,
  loading: Map<string, Promise<LoadedByHypervisor>>,
): Driver {
  return {
    ...driver,
    sendsDirectly: true,

    begin: async (vm, leave) => {
      const begun = await driver.begin(vm, leave)
      if ('refusal' in begun || leave?.directConnections === undefined) return begun
      return { ...begun, definition: DIRECT + begun.definition }
    },

    prepare: async (landing) => {
      const { vm, definition } = landing
      loading.delete(vm)
      if (!definition.startsWith(DIRECT)) return driver.prepare(landing)
      const answer = await driver.prepare({
        ...landing,
        definition: definition.slice(DIRECT.length),
      })
      if (answer !== undefined) return answer
      const incoming = cable.listen(vm)
      const fill = (guest: Writable) =>
        pipeline(incoming, guest).catch((cause: unknown) => {
          throw new CopyFailed({ type: 'StreamCut', receivedBytes: 0 }, { cause })
        })
      const told = () => Promise.reject(new Error('it is asked for below'))
      const { signal } = new AbortController()
      const all = hypervisor.receive(vm, { fill, told, signal })
      all.catch(() => {})
      loading.set(vm, all)
      return undefined
    },

    receive: async (vm, order) => {
      const all = loading.get(vm)
      if (all === undefined) return driver.receive(vm, order)
      const [loaded] = await Promise.all([all, order.told()])
      return loaded
    },

    perform: async (vm, order) => {
      if (order.dial.policy().directConnections === undefined) return driver.perform(vm, order)
      const outgoing = cable.connect(vm)
      outgoing.on('error', () => {})
      let directBytes = 0
      const send = async (image: Image) => {
        for (let frame = await image.next(); frame !== undefined; frame = await image.next()) {
          const piece = Buffer.from(frame.subarray(FRAME_HEADER_BYTES))
          directBytes += piece.length
          if (outgoing.destroyed)
            throw new CopyFailed({ type: 'StreamBroken', sentBytes: directBytes, code: 'EPIPE' })
          if (!outgoing.write(piece))
            await Promise.race([once(outgoing, 'drain'), once(outgoing, 'close')])
        }
        outgoing.end()
      }
      const stop = new AbortController()
      let gate: Promise<void> | undefined
      const sending = hypervisor.perform(vm, {
        ...order,
        signal: AbortSignal.any([order.signal, stop.signal]),
        gate: async () => {},
        paused: (at) => {
          order.paused(at)
          gate = order.gate()
          gate.catch(() => stop.abort())
        },
        send,
      })
      const [sent] = await Promise.allSettled([sending])
      const [passed] = await Promise.allSettled([gate])
      if (sent.status === 'fulfilled' && passed.status === 'fulfilled')
        return { ...sent.value, directBytes }
      outgoing.destroy()
      if (sent.status === 'fulfilled') await hypervisor.resume(vm)
      throw [passed, sent].find((each) => each.status === 'rejected')?.reason
    },
  }
}

const DIRECT = 'direct '

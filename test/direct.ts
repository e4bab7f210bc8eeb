import { PassThrough } from 'node:stream'
import type { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { CopyFailed } from '@ferry/host-agent/driver'
import type { Driver, LoadedByHypervisor, PerformOrder } from '@ferry/host-agent/driver'
import { FRAME_HEADER_BYTES } from '@ferry/host-agent/transfer/frames'
import type { Image } from '@ferry/host-agent/transfer/image'

/** What simulated hypervisors move images over by themselves: one end for the target, and one for a source that comes. */
export type Cable = {
  readonly listen: (name: string) => Readable
  /** @throws {CopyFailed} when nobody listens. */
  readonly connect: (name: string) => Writable
}

/** One that never breaks. */
export function wholeCable(): Cable {
  const ends = new Map<string, PassThrough>()
  return {
    listen: (name) => {
      const end = new PassThrough()
      ends.set(name, end)
      return end
    },
    connect: (name) => ends.get(name) ?? nobodyListens(),
  }
}

export const nobodyListens = (): never => {
  throw new CopyFailed({ type: 'HypervisorFailed', message: 'nobody listens' })
}

/** What goes on at a host whether or not it has an agent, by guest. */
export type GoesOn = {
  readonly loading: Map<string, Promise<LoadedByHypervisor>>
  readonly sending: Map<string, Sending>
}

type Sending = { readonly stop: () => void; readonly over: Promise<unknown> }

export const nothingGoesOn = (): GoesOn => ({ loading: new Map(), sending: new Map() })

/**
 * A simulated driver whose hypervisors do what libvirt's do with an image that goes directly: nobody holds them back
 * before they have "completed", and they go on without an agent.
 *
 * @param hypervisor the same guests, by a clock that outlives the agent.
 */
export function directly(
  driver: Driver,
  hypervisor: Driver,
  cable: Cable,
  { loading, sending }: GoesOn,
): Driver {
  const isLoaded = async (vm: string) =>
    (await driver.inspect()).some((guest) => guest.vm === vm && guest.state === 'loaded')

  const send = (vm: string, order: PerformOrder) => {
    const outgoing = cable.connect(order.cookie ?? '')
    outgoing.on('error', () => {})
    const stopping = new AbortController()
    const stop = () => {
      stopping.abort()
      outgoing.destroy()
    }
    let directBytes = 0
    let gate: Promise<void> | undefined
    const sent = hypervisor.perform(vm, {
      ...order,
      signal: stopping.signal,
      gate: async () => {},
      paused: (at) => {
        order.paused(at)
        gate = order.gate()
        gate.catch(stop)
      },
      send: async (image) => {
        directBytes = await allOf(image, outgoing)
      },
    })
    order.signal.addEventListener('abort', stop, { once: true })
    const over = sent.finally(() => sending.delete(vm))
    over.catch(() => outgoing.destroy())
    sending.set(vm, { stop, over })
    return { over, gate: () => gate, directBytes: () => directBytes }
  }

  return {
    ...driver,
    sendsDirectly: true,

    begin: async (vm, leave) => {
      const begun = await driver.begin(vm, leave)
      if ('refusal' in begun || leave?.directConnections === undefined) return begun
      return { ...begun, definition: DIRECT + begun.definition }
    },

    prepare: async (landing) => {
      const { vm, definition, migration, attempt } = landing
      loading.delete(vm)
      if (!definition.startsWith(DIRECT)) return driver.prepare(landing)
      const inner = { ...landing, definition: definition.slice(DIRECT.length) }
      const refusal = await driver.prepare(inner)
      if (refusal !== undefined) return refusal
      const cookie = `${migration}.${attempt}`
      const incoming = cable.listen(cookie)
      const fill = (guest: Writable) =>
        pipeline(incoming, guest).catch((cause: unknown) => {
          throw new CopyFailed({ type: 'StreamCut', receivedBytes: 0 }, { cause })
        })
      const { signal } = new AbortController()
      const all = hypervisor.receive(vm, { fill, told: nobodyListens, signal })
      all.catch(() => {})
      loading.set(vm, all)
      return { cookie }
    },

    receive: async (vm, order) => {
      const all = loading.get(vm)
      if (all === undefined) return driver.receive(vm, order)
      const [loaded] = await Promise.all([all, order.told()])
      if (!(await isLoaded(vm))) throw new CopyFailed({ type: 'GuestGone', vm })
      return loaded
    },

    perform: async (vm, order) => {
      if (sending.has(vm)) throw new CopyFailed({ type: 'AgentRestarted' })
      if (order.dial.policy().directConnections === undefined) return driver.perform(vm, order)
      order.signal.throwIfAborted()
      const { over, gate, directBytes } = send(vm, order)
      const [sent] = await Promise.allSettled([over])
      const [passed] = await Promise.allSettled([gate()])
      if (sent.status === 'fulfilled' && passed.status === 'fulfilled')
        return { ...sent.value, directBytes: directBytes() }
      const error: unknown = [passed, sent].find((each) => each.status === 'rejected')?.reason
      const isDecided = error instanceof CopyFailed && error.failure.type === 'VerdictGiven'
      // D5: nobody has been told, and nobody will be.
      if (sent.status === 'fulfilled' && !isDecided) await driver.resume(vm)
      throw error
    },

    resume: async (vm) => {
      const its = sending.get(vm)
      its?.stop()
      await its?.over.catch(() => {})
      return driver.resume(vm)
    },
  }
}

async function allOf(image: Image, outgoing: Writable): Promise<number> {
  let sentBytes = 0
  const mustBeOpen = () => {
    if (outgoing.destroyed) throw new CopyFailed({ type: 'StreamBroken', sentBytes, code: 'EPIPE' })
  }
  for (let frame = await image.next(); frame !== undefined; frame = await image.next()) {
    const piece = Buffer.from(frame.subarray(FRAME_HEADER_BYTES))
    mustBeOpen()
    await new Promise<void>((resolve) => outgoing.write(piece, () => resolve()))
    sentBytes += piece.length
  }
  mustBeOpen()
  await new Promise<void>((resolve) => outgoing.end(() => resolve()))
  if (!outgoing.writableFinished) mustBeOpen()
  return sentBytes
}

const DIRECT = 'direct '

import { PassThrough } from 'node:stream'
import type { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Clock } from '@ferry/events/clock'
import { CopyFailed } from '@ferry/host-agent/driver'
import type { Driver, LoadedByHypervisor, PerformOrder } from '@ferry/host-agent/driver'
import { FRAME_HEADER_BYTES } from '@ferry/host-agent/transfer/frames'
import type { Image } from '@ferry/host-agent/transfer/image'

/** What simulated hypervisors move images over by themselves: one end for the target, and one for a source that comes. */
export type Cable = {
  readonly listen: (name: string) => Readable
  /** @throws {CopyFailed} when nobody listens. */
  readonly connect: (name: string) => Writable
  readonly answers: Answers
}

/** The way back: whether the target has loaded it. A source has not completed before it knows. */
export type Answers = {
  readonly give: (name: string, isLoaded: boolean) => void
  readonly to: (name: string) => Promise<boolean>
}

export function makeAnswers(): Answers {
  const asked = new Map<string, PromiseWithResolve>()
  const of = (name: string) => {
    const known = asked.get(name) ?? withResolve()
    asked.set(name, known)
    return known
  }
  return { give: (name, isLoaded) => of(name).resolve(isLoaded), to: (name) => of(name).promise }
}

type PromiseWithResolve = {
  readonly promise: Promise<boolean>
  readonly resolve: (isLoaded: boolean) => void
}

function withResolve(): PromiseWithResolve {
  let resolve: PromiseWithResolve['resolve'] = () => {}
  const promise = new Promise<boolean>((settle) => {
    resolve = settle
  })
  return { promise, resolve }
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
    answers: makeAnswers(),
  }
}

export const nobodyListens = (): never => {
  throw new CopyFailed({ type: 'HypervisorFailed', message: 'nobody listens' })
}

/** What goes on at a host whether or not it has an agent, by guest. */
export type GoesOn = {
  readonly loading: Map<string, Loading>
  readonly sending: Map<string, Sending>
}

type Loading = {
  readonly all: Promise<LoadedByHypervisor>
  /** The target may commit before that. */
  readonly isPostCopy: boolean
  /** Ends with its hypervisor. */
  readonly incoming: Readable
}

type Sending = { readonly stop: () => void; readonly over: Promise<unknown> }

export const nothingGoesOn = (): GoesOn => ({ loading: new Map(), sending: new Map() })

/**
 * A simulated driver whose hypervisors do what libvirt's do with an image that goes directly: nobody holds them back
 * before they have "completed", and they go on without an agent. Post-copy they do not need: a guest that stands still
 * makes no memory dirty, so they get to their end behind the offer; or break off, and then it runs on.
 *
 * @param hypervisor the same guests, by a clock that outlives the agent.
 */
export function directly(
  driver: Driver,
  hypervisor: Driver,
  cable: Cable,
  { loading, sending }: GoesOn,
  clock: Clock,
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
    let isOffered = false
    const sent = hypervisor.perform(vm, {
      ...order,
      signal: stopping.signal,
      gate: async () => {},
      paused: (at) => {
        isOffered = order.postCopy !== undefined
        if (!isOffered) order.paused(at)
        gate = order.postCopy?.offer({ pausedAt: at, bytes: directBytes }) ?? order.gate()
        gate.catch((error: unknown) => {
          if (!isOffered || error instanceof CopyFailed) stop()
        })
      },
      send: async (image) => {
        directBytes = await allOf(image, outgoing)
        const isLoaded = await cable.answers.to(order.cookie ?? '')
        if (!isLoaded)
          throw new CopyFailed({ type: 'StreamBroken', sentBytes: directBytes, code: 'EPIPE' })
      },
    })
    const lettingGo = new Promise<never>((_, reject) => {
      const abort = () => {
        if (!isOffered) stop()
        else reject(order.signal.reason)
      }
      order.signal.addEventListener('abort', abort, { once: true })
    })
    lettingGo.catch(() => {})
    const over = sent.finally(() => sending.delete(vm))
    over.catch(() => outgoing.destroy())
    sending.set(vm, { stop, over })
    return {
      over: Promise.race([over, lettingGo]),
      gate: () => gate,
      directBytes: () => directBytes,
    }
  }

  return {
    ...driver,
    sendsDirectly: true,
    copiesAfterwards: true,

    begin: async (vm, leave) => {
      const begun = await driver.begin(vm, leave)
      if ('refusal' in begun || leave?.directConnections === undefined) return begun
      const kind = leave.isPostCopy === true ? POST_COPY : DIRECT
      return { ...begun, definition: kind + begun.definition }
    },

    prepare: async (landing) => {
      const { vm, definition, migration, attempt } = landing
      forgetLoading(loading, vm)
      const kind = [DIRECT, POST_COPY].find((each) => definition.startsWith(each))
      if (kind === undefined) return driver.prepare(landing)
      const inner = { ...landing, definition: definition.slice(kind.length) }
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
      all.then(
        () => cable.answers.give(cookie, true),
        () => cable.answers.give(cookie, false),
      )
      loading.set(vm, { all, isPostCopy: kind === POST_COPY, incoming })
      return { cookie }
    },

    receive: async (vm, order) => {
      const its = loading.get(vm)
      if (its === undefined) return driver.receive(vm, order)
      const { all, isPostCopy } = its
      if (isPostCopy) {
        const told = order.told()
        await Promise.race([told, all.then(() => told)])
        return { loadedAt: clock.now() }
      }
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
      if (sent.status === 'fulfilled' && error instanceof CopyFailed && !isDecided)
        await driver.resume(vm)
      throw error
    },

    goOn: async (vm, signal) => {
      const over = sending.get(vm)?.over.catch(() => {})
      const aborted = new Promise<never>((_, reject) =>
        signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
      )
      await Promise.race([over, aborted])
      const state = (await driver.inspect()).find((guest) => guest.vm === vm)?.state
      if (state === 'running')
        throw new CopyFailed({ type: 'HypervisorFailed', message: 'it was broken off' })
      return { rounds: 1, directBytes: 0 }
    },

    activate: async (vm, rest) => {
      await arrivedBehindOffer({ loading, sending }, vm, rest?.signal)
      return driver.activate(vm, rest)
    },

    clear: async (vm) => {
      await driver.clear(vm)
      const isThere = (await driver.inspect()).some((guest) => guest.vm === vm)
      if (!isThere) forgetLoading(loading, vm)
    },

    resume: async (vm) => {
      const its = sending.get(vm)
      its?.stop()
      await its?.over.catch(() => {})
      return driver.resume(vm)
    },
  }
}

export function forgetLoading(loading: GoesOn['loading'], vm: string): void {
  loading.get(vm)?.incoming.destroy(new Error('its hypervisor has ended'))
  loading.delete(vm)
}

/** One that was committed to before all of it was there is not started before that. */
export async function arrivedBehindOffer(
  { loading }: GoesOn,
  vm: string,
  signal?: AbortSignal,
): Promise<void> {
  const its = loading.get(vm)
  if (its?.isPostCopy !== true) return
  const all = its.all.catch((cause: unknown) => {
    throw new Error('the rest of it never came', { cause })
  })
  const aborted = new Promise<never>((_, reject) =>
    signal?.addEventListener('abort', () => reject(signal.reason), { once: true }),
  )
  await Promise.race([all, aborted])
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
const POST_COPY = 'post-copy '

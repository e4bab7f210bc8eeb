import { randomBytes } from 'node:crypto'
import { createServer } from 'node:tls'
import type { TLSSocket } from 'node:tls'
import type { Writable } from 'node:stream'
import type { DataOf } from '@ferry/schemas/messages'
import type { Clock } from '@ferry/events/clock'
import { CopyFailed } from '../driver.ts'
import { KEY_BYTES, tlsOptions } from './tls.ts'
import type { Receipt } from './frames.ts'
import { receiveImage } from './receive.ts'

/**
 * The one port of a host on which images arrive. A visitor names a transfer and proves with TLS that it has the key;
 * each transfer works once, until it expires. Whoever has no right to be here is turned away, and that is reported.
 */
export type TransferPort = {
  readonly address: { readonly host: string; readonly port: number }
  /** Authorises one transfer. Opening it again for the same attempt forgets the one before. */
  readonly open: (attempt: string, version: number) => OpenTransfer
  /** The transfer of that id, if this very process opened it and it still stands. */
  readonly find: (transfer: string) => Arrival | undefined
  /** No transfer of this attempt is worth anything from now on; one that is under way breaks. */
  readonly forget: (attempt: string) => void
  readonly close: () => Promise<void>
}

export type OpenTransfer = {
  readonly transfer: string
  readonly key: Uint8Array
  readonly expiresAt: number
}

export type Arrival = {
  /** Waits for the visitor, until the transfer expires, and hands the image to the hypervisor. */
  readonly receive: (hypervisor: Writable, signal: AbortSignal) => Promise<Receipt>
}

export type Intruder = Omit<DataOf<'ConnectionRefused'>, 'times'>

export type PortOptions = {
  readonly listen: { readonly host: string; readonly port: number }
  /** What the other hosts call this port; absent: where it listens. */
  readonly address?: { readonly host: string; readonly port: number }
  readonly expiresAfterMs: number
  readonly clock: Clock
  readonly refused: (intruder: Intruder) => void
}

const HANDSHAKE_MS = 10_000
/** Ids are remembered for this long past their end, so that a refusal can say what was wrong with one. */
const REMEMBERED = 1000

type Slot = {
  readonly transfer: string
  readonly attempt: string
  readonly key: Uint8Array
  readonly version: number
  readonly expiresAtElapsed: number
  readonly arrived: Promise<TLSSocket>
  readonly arrive: (socket: TLSSocket) => void
  socket?: TLSSocket
  isForgotten: boolean
}

export async function openPort(options: PortOptions): Promise<TransferPort> {
  const { listen, expiresAfterMs, clock, refused } = options
  const slots = new Map<string, Slot>()
  /** Which transfer a connection named, and why it was turned away. */
  const visitors = new WeakMap<object, { transfer: string; why?: Intruder['why'] }>()

  const whyNot = (slot: Slot | undefined): Intruder['why'] | undefined => {
    if (slot === undefined || slot.isForgotten) return 'UnknownTransfer'
    if (slot.socket !== undefined) return 'UsedTransfer'
    return clock.elapsed() > slot.expiresAtElapsed ? 'ExpiredTransfer' : undefined
  }

  const server = createServer({
    ...tlsOptions,
    handshakeTimeout: HANDSHAKE_MS,
    noDelay: true,
    pskCallback: (socket, transfer) => {
      const slot = slots.get(transfer)
      const why = whyNot(slot)
      visitors.set(socket, { transfer, ...(why === undefined ? {} : { why }) })
      return why === undefined && slot !== undefined ? slot.key : null
    },
  })

  server.on('secureConnection', (socket) => {
    socket.on('error', () => {})
    const slot = slots.get(visitors.get(socket)?.transfer ?? '')
    const why = whyNot(slot)
    if (slot === undefined || why !== undefined) {
      // Two came with the right key at the same moment: the first one has it.
      refused({ why: why ?? 'UnknownTransfer', remoteAddress: socket.remoteAddress ?? '' })
      socket.destroy()
      return
    }
    slot.socket = socket
    socket.pause()
    slot.arrive(socket)
  })
  server.on('tlsClientError', (error: NodeJS.ErrnoException, socket) => {
    const visitor = visitors.get(socket)
    const why = visitor?.why ?? reasonOf(error, visitor !== undefined)
    const isId = visitor !== undefined && /^[A-Za-z0-9_-]{1,64}$/.test(visitor.transfer)
    if (why !== undefined)
      refused({
        why,
        ...(isId ? { transfer: visitor.transfer } : {}),
        remoteAddress: socket.remoteAddress ?? '',
      })
    socket.destroy()
  })

  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(listen.port, listen.host, resolve)
  })
  const bound = server.address()
  if (bound === null || typeof bound === 'string')
    throw new Error('the transfer port has no address')

  const forget = (attempt: string) => {
    for (const slot of slots.values()) {
      if (slot.attempt !== attempt) continue
      slot.isForgotten = true
      slot.socket?.destroy()
    }
  }

  return {
    address: options.address ?? { host: listen.host, port: bound.port },
    open: (attempt, version) => {
      forget(attempt)
      const transfer = randomBytes(16).toString('hex')
      const key = randomBytes(KEY_BYTES)
      let arrive: (socket: TLSSocket) => void = () => {}
      const arrived = new Promise<TLSSocket>((resolve) => {
        arrive = resolve
      })
      const expiresAtElapsed = clock.elapsed() + expiresAfterMs
      slots.set(transfer, {
        transfer,
        attempt,
        key,
        version,
        expiresAtElapsed,
        arrived,
        arrive,
        isForgotten: false,
      })
      for (const old of slots.keys()) {
        if (slots.size <= REMEMBERED) break
        slots.delete(old)
      }
      return { transfer, key, expiresAt: clock.now() + expiresAfterMs }
    },
    find: (transfer) => {
      const slot = slots.get(transfer)
      return slot === undefined || slot.isForgotten
        ? undefined
        : { receive: (...args) => receive(slot, clock, ...args) }
    },
    forget,
    close: async () => {
      for (const { attempt } of slots.values()) forget(attempt)
      await new Promise<void>((resolve) => {
        server.close(() => resolve())
      })
    },
  }
}

async function receive(
  slot: Slot,
  clock: Clock,
  hypervisor: Writable,
  signal: AbortSignal,
): Promise<Receipt> {
  const { transfer, version, key, expiresAtElapsed } = slot
  const waiting = new AbortController()
  const expiry = clock.sleep(
    Math.max(0, expiresAtElapsed - clock.elapsed()),
    AbortSignal.any([signal, waiting.signal]),
  )
  const socket = await Promise.race([slot.arrived, expiry.then(() => undefined)]).finally(() => {
    waiting.abort()
    expiry.catch(() => {})
  })
  if (socket === undefined) throw new CopyFailed({ type: 'TransferExpired', transfer })
  const stop = () => socket.destroy()
  signal.addEventListener('abort', stop, { once: true })
  try {
    return await receiveImage(socket, hypervisor, { transfer, version, key })
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

/** Node's and OpenSSL's words for a handshake that went wrong. `undefined`: the visitor just went away. */
function reasonOf(
  { code = '' }: NodeJS.ErrnoException,
  hasNamed: boolean,
): Intruder['why'] | undefined {
  if (code === 'ERR_TLS_HANDSHAKE_TIMEOUT') return 'Silent'
  if (code === 'ECONNRESET') return undefined
  return hasNamed ? 'WrongKey' : 'NotTls'
}

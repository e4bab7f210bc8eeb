import { connect as connectTcp, createServer } from 'node:net'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import { connect as connectTls, createServer as createTlsServer } from 'node:tls'
import type { SecureVersion, TLSSocket } from 'node:tls'
import { CopyFailed } from '../driver.ts'
import type { Door, Intruder, Rejected, Ticket, Visit, Wire } from './wire.ts'

/**
 * Transfers over TCP. A visitor says in the clear which transfer it comes for (its id is no secret: it stands in the log),
 * so that it can be shown to the process that waits for it; then both speak TLS 1.3 with a pre-shared key: who has the
 * transfer's key may speak for it, and nobody else. There are no certificates.
 *
 *     FERRY/2 <transfer id, padded to 64>\n      TLS 1.3 (PSK, identity = transfer id)      frames
 *
 * The number is that of the stream's version and one: the first streams had no such line. The line itself is the same in
 * every version, so that any release's agent can show the visitor to whoever waits for it.
 */
const ID_BYTES = 64
const GREETING_BYTES = 'FERRY/2 '.length + ID_BYTES + 1
const GREETING = /^FERRY\/[2-9] ([\w-]+) *\n$/

const version: SecureVersion = 'TLSv1.3'
export const tlsOptions = {
  minVersion: version,
  maxVersion: version,
  // Node's first choice, ChaCha20, is slower where the CPU has AES instructions.
  ciphers: 'TLS_AES_128_GCM_SHA256',
}

const CONNECT_MS = 10_000
const HANDSHAKE_MS = 10_000
/** A target's agent that is just being restarted is worth waiting for: so long, and asked again so often. */
const REFUSED_FOR_MS = 3000
const REFUSED_AGAIN_MS = 100

/** Also for those who test what a stranger can do. */
export const greetingFor = (transfer: string, version: number): string =>
  `FERRY/${version + 1} ${transfer.padEnd(ID_BYTES)}\n`

export const tlsWire: Wire = {
  listen: async (at, door) => {
    const server = createServer({ noDelay: true }, (socket) => greet(socket, door))
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(at.port, at.host, resolve)
    })
    const bound = server.address()
    if (bound === null || typeof bound === 'string')
      throw new Error('the transfer port has no address')
    return {
      port: bound.port,
      // Not waited for: a visitor that was handed to another process stays as long as it likes.
      close: async () => void server.close(),
    }
  },

  connect: async (ticket, signal) => {
    const deadline = AbortSignal.any([signal, AbortSignal.timeout(CONNECT_MS)])
    const mayBeBack = AbortSignal.timeout(REFUSED_FOR_MS)
    for (;;) {
      signal.throwIfAborted()
      try {
        return await secured(await connected(ticket, deadline), ticket, deadline)
      } catch (error) {
        if (!isRefused(error) || mayBeBack.aborted) throw error
      }
      await pause(REFUSED_AGAIN_MS, undefined, { signal }).catch(() => {})
    }
  },

  admit: (visit, key) => admitted(visit, key),
}

/** Reads the greeting, and no more than came with it: what follows is for whoever takes the visitor. */
function greet(socket: Socket, { visit, nonsense }: Door): void {
  const remoteAddress = socket.remoteAddress ?? ''
  const away = (why: Intruder['why']) => {
    forget()
    nonsense(why, remoteAddress)
    socket.destroy()
  }
  const silent = setTimeout(() => away('Silent'), HANDSHAKE_MS)
  const readable = () => {
    const greeting: unknown = socket.read(GREETING_BYTES)
    if (!(greeting instanceof Buffer)) return
    const [, transfer] = GREETING.exec(greeting.toString('latin1')) ?? []
    if (transfer === undefined) return away('NotFerry')
    forget()
    return visit({ transfer, remoteAddress, stream: socket })
  }
  const ended = () => (socket.bytesRead > 0 ? away('NotFerry') : forget())
  const forget = () => {
    clearTimeout(silent)
    socket.off('readable', readable).off('end', ended)
  }
  socket.on('error', () => {})
  socket.on('readable', readable).on('end', ended)
}

const isRefused = (error: unknown): boolean =>
  error instanceof CopyFailed &&
  error.failure.type === 'ConnectFailed' &&
  error.failure.code === 'ECONNREFUSED'

function connected({ address }: Ticket, deadline: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connectTcp({ ...address, noDelay: true })
    const late = () => socket.destroy(new Error('ETIMEDOUT'))
    deadline.addEventListener('abort', late, { once: true })
    const forget = () => deadline.removeEventListener('abort', late)
    socket.once('connect', () => {
      forget()
      socket.off('error', failed)
      resolve(socket)
    })
    const failed = (error: NodeJS.ErrnoException) => {
      forget()
      const code = error.code ?? error.message
      const failure = {
        type: 'ConnectFailed',
        address: `${address.host}:${address.port}`,
        code,
      } as const
      reject(new CopyFailed(failure, { cause: error }))
    }
    socket.once('error', failed)
    if (deadline.aborted) late()
  })
}

function secured(
  socket: Socket,
  { transfer, key, version }: Ticket,
  deadline: AbortSignal,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    socket.write(greetingFor(transfer, version))
    const secure = connectTls({
      ...tlsOptions,
      socket,
      pskCallback: () => ({ psk: key, identity: transfer }),
      // There is no certificate whose name could be checked: the key is the proof.
      checkServerIdentity: () => undefined,
    })
    const late = () => secure.destroy(new Error('ETIMEDOUT'))
    deadline.addEventListener('abort', late, { once: true })
    const failed = (error: NodeJS.ErrnoException) => {
      deadline.removeEventListener('abort', late)
      secure.destroy()
      const code = error.code ?? error.message
      reject(new CopyFailed({ type: 'TransferRejected', transfer, code }, { cause: error }))
    }
    // A target that turns us away just closes, and not every closing is an error to Node.
    const closed = () => failed(new Error('closed by the target'))
    secure.once('error', failed).once('close', closed)
    // Between one step and the next nobody listened.
    if (deadline.aborted) late()
    secure.once('secureConnect', () => {
      deadline.removeEventListener('abort', late)
      secure.off('error', failed).off('close', closed)
      resolve(secure)
    })
  })
}

/** A TLS server that listens nowhere: the visitor came by the port of an agent, and is given to it. */
function admitted({ transfer, stream }: Visit, key: Uint8Array): Promise<Duplex | Rejected> {
  return new Promise((resolve) => {
    const server = createTlsServer({
      ...tlsOptions,
      handshakeTimeout: HANDSHAKE_MS,
      pskCallback: (_, identity) => (identity === transfer ? key : null),
    })
    server.once('secureConnection', (secure) => {
      secure.on('error', () => {})
      resolve(secure)
    })
    server.once('tlsClientError', (error: NodeJS.ErrnoException) => {
      stream.destroy()
      resolve({ why: whyRejected(error) })
    })
    stream.once('close', () => resolve({ why: 'Left' }))
    server.emit('connection', stream)
  })
}

/** Node's and OpenSSL's words for a handshake that went wrong. */
function whyRejected({ code = '' }: NodeJS.ErrnoException): Rejected['why'] {
  if (code === 'ERR_TLS_HANDSHAKE_TIMEOUT') return 'Silent'
  return code.startsWith('ERR_SSL') ? 'WrongKey' : 'Left'
}

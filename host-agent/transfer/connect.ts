import { connect as connectTls } from 'node:tls'
import type { TLSSocket } from 'node:tls'
import { CopyFailed } from '../driver.ts'
import { tlsOptions } from './tls.ts'

/** Where a transfer goes, and what proves that we may use it. */
export type Ticket = {
  readonly transfer: string
  readonly address: { readonly host: string; readonly port: number }
  readonly key: Uint8Array
}

const CONNECT_MS = 10_000

/** Connects to the target's transfer port. @throws {CopyFailed} which says whether it was the network or the target. */
export async function connectTransfer(ticket: Ticket, signal: AbortSignal): Promise<TLSSocket> {
  const { transfer, address, key } = ticket
  signal.throwIfAborted()
  const socket = connectTls({
    ...tlsOptions,
    ...address,
    pskCallback: () => ({ psk: key, identity: transfer }),
    // There is no certificate whose name could be checked: the key is the proof.
    checkServerIdentity: () => undefined,
  })
  socket.setNoDelay(true)
  let isConnected = false
  socket.once('connect', () => {
    isConnected = true
  })
  const stop = () => socket.destroy(signal.reason instanceof Error ? signal.reason : undefined)
  signal.addEventListener('abort', stop, { once: true })
  try {
    await new Promise<void>((resolve, reject) => {
      const late = setTimeout(() => socket.destroy(new Error('ETIMEDOUT')), CONNECT_MS)
      const settle = (act: () => void) => () => {
        clearTimeout(late)
        act()
      }
      socket.once('secureConnect', settle(resolve))
      socket.once('error', (error: NodeJS.ErrnoException) => {
        const code = error.code ?? error.message
        const failure = isConnected
          ? ({ type: 'TransferRejected', transfer, code } as const)
          : ({ type: 'ConnectFailed', address: `${address.host}:${address.port}`, code } as const)
        settle(() => reject(new CopyFailed(failure, { cause: error })))()
      })
    })
    return socket
  } catch (error) {
    socket.destroy()
    signal.throwIfAborted()
    throw error
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

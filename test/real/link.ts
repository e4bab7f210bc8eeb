import { connect, createServer } from 'node:net'
import type { Socket } from 'node:net'

/** The network between two hosts, as far as images see it: what arrives is passed on, until somebody cuts it. */
export type Link = {
  readonly address: { readonly host: string; readonly port: number }
  /** Breaks every connection that is open; new ones may be made. */
  readonly cut: () => void
  readonly passedBytes: () => number
  readonly close: () => Promise<void>
}

export async function openLink(port: number): Promise<Link> {
  const host = '127.0.0.1'
  const open = new Set<Socket>()
  let passed = 0
  const server = createServer({ allowHalfOpen: true }, (visitor) => {
    const onward = connect({ host, port, allowHalfOpen: true })
    for (const [one, other] of [
      [visitor, onward],
      [onward, visitor],
    ] as const) {
      open.add(one)
      one.setNoDelay(true)
      one.on('data', (chunk: Buffer) => (passed += chunk.length))
      one.pipe(other)
      one.on('error', () => other.destroy())
      one.on('close', () => {
        open.delete(one)
        other.destroy()
      })
    }
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, host, resolve)
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the link has no address')
  const cut = () => {
    for (const socket of open) socket.destroy()
  }
  return {
    address: { host, port: address.port },
    cut,
    passedBytes: () => passed,
    close: async () => {
      cut()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

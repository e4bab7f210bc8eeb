import { createServer } from 'node:net'
import type { Socket } from 'node:net'
import { banner, go, ready } from '@ferry/host-agent/drivers/xen/handshake'
import { OUTSIDE, quoted } from './xen-hosts.ts'
import type { XenHosts } from './xen-hosts.ts'

/**
 * `xl migrate` as it is used everywhere, from one host's xl to the other's, with a network in between that loses one of
 * its last two words: the source's "go", or the target's report of how its start went. Both xl see their connection end.
 */
export type Lost = 'go' | 'report'

/** It takes two minutes on two cores, and some times that where others use them as well. */
const MOVED_MS = 600_000

export async function migrateWithXl(
  hosts: XenHosts,
  { vm, source, target, lost }: { vm: string; source: string; target: string; lost: Lost },
): Promise<void> {
  let visitor: Socket | undefined
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    visitor = socket
    relay(socket, hosts.pipe(target, 'xl migrate-receive 2> /dev/null'), lost)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the relay has no address')
  const way = `exec socat -b 262144 - TCP:${OUTSIDE}:${address.port}`
  try {
    await hosts.shell(source, `xl migrate -s '' ${vm} ${quoted(way)}`, MOVED_MS)
  } finally {
    visitor?.destroy()
    server.close()
  }
}

function relay(source: Socket, target: Socket, lost: Lost): void {
  let said = 0
  let isReady = false
  let behind: Buffer = Buffer.alloc(0)
  const cut = () => {
    source.destroy()
    target.destroy()
  }
  for (const socket of [source, target]) socket.on('error', cut).on('close', cut)
  target.on('data', (piece) => {
    said += piece.length
    isReady = said >= banner.length + ready.length
    if (said > banner.length + ready.length) return lost === 'report' ? cut() : undefined
    source.write(piece)
  })
  source.on('data', (piece) => {
    if (isReady) behind = Buffer.concat([behind, piece])
    if (isReady && lost === 'go') return behind.length >= go.length ? cut() : undefined
    if (target.write(piece)) return
    source.pause()
    target.once('drain', () => source.resume())
  })
}

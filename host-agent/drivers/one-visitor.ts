import { rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { Server, Socket } from 'node:net'

/** A unix socket for exactly one visitor: a hypervisor that brings an image. */
export type Door = { readonly socket: Promise<Socket>; readonly close: () => void }

export async function listenFor(path: string): Promise<Door> {
  await rm(path, { force: true })
  return openDoor((server, isOpen) => server.listen(path, isOpen))
}

/** The same on a free port of this host's own address, for a hypervisor that knows nothing else. */
export async function listenOnPort(): Promise<Door & { readonly port: number }> {
  let port = 0
  const door = await openDoor((server, isOpen) =>
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      if (typeof address === 'object' && address !== null) port = address.port
      isOpen()
    }),
  )
  return { ...door, port }
}

async function openDoor(listen: (server: Server, isOpen: () => void) => void): Promise<Door> {
  // Paused, so that whoever takes the visitor reads from its first byte.
  const server = createServer({ pauseOnConnect: true })
  let visitor: Socket | undefined
  const socket = new Promise<Socket>((resolve) => {
    server.once('connection', (connection) => {
      visitor = connection
      server.close()
      resolve(connection)
    })
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    listen(server, resolve)
  })
  return {
    socket,
    close: () => {
      server.close()
      visitor?.destroy()
    },
  }
}

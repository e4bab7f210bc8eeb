import { rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { Socket } from 'node:net'

/** A unix socket for exactly one visitor: a hypervisor that brings an image. */
export type Door = { readonly socket: Promise<Socket>; readonly close: () => void }

export async function listenFor(path: string): Promise<Door> {
  await rm(path, { force: true })
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
    server.listen(path, resolve)
  })
  return {
    socket,
    close: () => {
      server.close()
      visitor?.destroy()
    },
  }
}

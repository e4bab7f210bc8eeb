import { rm } from 'node:fs/promises'
import { createConnection, createServer } from 'node:net'

/**
 * Takes a lock that is gone with its process, however that ended: a unix socket that the process listens on.
 *
 * @returns how to give it back; undefined: another process holds it.
 */
export async function takeLock(path: string): Promise<(() => Promise<void>) | undefined> {
  if (await answers(path)) return undefined
  await rm(path, { force: true })
  const server = createServer((visitor) => visitor.destroy())
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, resolve)
  })
  server.unref()
  return async () => {
    await new Promise<void>((resolve) => {
      server.close(() => resolve())
    })
  }
}

const answers = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const visitor = createConnection(path)
    visitor.once('connect', () => {
      visitor.destroy()
      resolve(true)
    })
    visitor.once('error', () => resolve(false))
  })

import { rm } from 'node:fs/promises'
import { createConnection, createServer } from 'node:net'
import { join } from 'node:path'

export class DirectoryInUse extends Error {
  override readonly name = 'DirectoryInUse'

  constructor(directory: string) {
    super(`another agent runs on ${directory}`)
  }
}

/**
 * One agent for each state directory: two would answer the same commands. The lock is a unix socket that the agent
 * listens on, so it is gone with its process, however that ended.
 *
 * @returns how to give it back.
 */
export async function lockDirectory(directory: string): Promise<() => Promise<void>> {
  const path = join(directory, 'agent.lock')
  if (await answers(path)) throw new DirectoryInUse(directory)
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

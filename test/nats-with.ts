import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { freePort } from '@ferry/coordinator/embedded/nats-server'

/** A nats-server with what an operator wrote into its configuration: users, and what each may do. */
export async function natsWith(
  folder: string,
  configuration: string,
): Promise<{ readonly url: string; readonly stop: () => Promise<void> }> {
  const port = await freePort()
  const store = JSON.stringify(join(folder, 'jetstream'))
  await mkdir(folder, { recursive: true })
  const file = join(folder, 'with.conf')
  await writeFile(
    file,
    `listen: "127.0.0.1:${port}"\njetstream { store_dir: ${store} }\n${configuration}`,
  )
  const child = spawn('nats-server', ['--config', file], { stdio: ['ignore', 'ignore', 'pipe'] })
  const ended = once(child, 'exit')
  const said: string[] = []
  const ready = (async () => {
    for await (const line of createInterface({ input: child.stderr })) {
      said.push(line)
      if (line.includes('Server is ready')) return
    }
    throw new Error(`nats-server ended:\n${said.join('\n')}`)
  })()
  await ready
  child.stderr.resume()
  return {
    url: `nats://127.0.0.1:${port}`,
    stop: async () => {
      child.kill()
      await ended
    },
  }
}

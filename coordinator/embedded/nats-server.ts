import { randomInt } from 'node:crypto'
import { execFile, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { canSync } from '@ferry/events/durability'

/**
 * The system's nats-server as a child process, with JetStream in a data directory: what `ferry up` and the tests
 * run on. A fleet runs its own cluster instead.
 */
export type NatsServer = {
  readonly url: string
  readonly pid: number
  /** It writes each message to its disk before it says that it has it: from nats-server 2.10 on. */
  readonly isSynced: boolean
  /** Ends it as an operator would, also when it is stopped; SIGKILL for a crash. */
  readonly stop: (signal?: NodeJS.Signals) => Promise<void>
  /** Resolves with the exit code, or the signal that ended it. */
  readonly ended: Promise<number | string>
}

export type NatsServerOptions = {
  readonly dataDirectory: string
  readonly host?: string
  /** 0 or absent: a free one is found. */
  readonly port?: number
  /** As one of several, which find each other where `routes` says. */
  readonly cluster?: {
    readonly name: string
    readonly port: number
    readonly routes: readonly number[]
  }
}

export class NatsServerMissing extends Error {
  override readonly name = 'NatsServerMissing'

  constructor(options?: ErrorOptions) {
    super(
      'there is no nats-server on this machine; on Debian: apt-get install nats-server',
      options,
    )
  }
}

export async function startNatsServer(options: NatsServerOptions): Promise<NatsServer> {
  const { dataDirectory, host = '127.0.0.1', cluster } = options
  const isSynced = canSync(await installedVersion())
  const port =
    options.port === undefined || options.port === 0 ? await freePort(host) : options.port
  await mkdir(dataDirectory, { recursive: true, mode: 0o700 })
  const config = join(dataDirectory, 'nats-server.conf')
  const store = join(dataDirectory, 'jetstream')
  await writeFile(config, configuration({ host, port, store, isSynced, cluster }))

  const child = spawn('nats-server', ['--config', config], { stdio: ['ignore', 'ignore', 'pipe'] })
  const ended = new Promise<number | string>((resolve) => {
    child.once('exit', (code, signal) => resolve(code ?? signal ?? 'unknown'))
  })
  const { pid } = await ready(child, ended)
  return {
    url: `nats://${host}:${port}`,
    pid,
    isSynced,
    stop: async (signal = 'SIGTERM') => {
      child.kill(signal)
      child.kill('SIGCONT')
      await ended
    },
    ended,
  }
}

/** @throws {NatsServerMissing} */
export async function installedVersion(): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)('nats-server', ['--version'])
    return stdout.trim().replace(/^nats-server: v/, '')
  } catch (cause) {
    throw new NatsServerMissing({ cause })
  }
}

type Configuration = {
  readonly host: string
  readonly port: number
  readonly store: string
  readonly isSynced: boolean
  readonly cluster: NatsServerOptions['cluster']
}

const configuration = ({ host, port, store, isSynced, cluster }: Configuration) => `\
listen: ${JSON.stringify(`${host}:${port}`)}
jetstream { store_dir: ${JSON.stringify(store)}${isSynced ? ', sync_interval: always' : ''} }
${cluster === undefined ? '' : clusterConfiguration(host, cluster)}`

const clusterConfiguration = (
  host: string,
  { name, port, routes }: NonNullable<NatsServerOptions['cluster']>,
) => `\
server_name: ${JSON.stringify(name)}
cluster {
  name: ferry
  listen: ${JSON.stringify(`${host}:${port}`)}
  routes: ${JSON.stringify(routes.map((route) => `nats://${host}:${route}`))}
}
`

const READY_MS = 15_000

/** Waits for the server's own word that it is ready; its last lines are the error when it is not. */
async function ready(
  child: ChildProcess,
  ended: Promise<number | string>,
): Promise<{ pid: number }> {
  let said = ''
  const { stderr } = child
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      reject(new Error(`nats-server was not ready within ${READY_MS} ms: ${said.slice(-500)}`))
    }, READY_MS)
    child.once('error', (cause) => {
      clearTimeout(timer)
      reject(new NatsServerMissing({ cause }))
    })
    void ended.then((how) => {
      clearTimeout(timer)
      reject(new Error(`nats-server ended (${how}): ${said.slice(-500)}`))
    })
    stderr?.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-4000)
      if (!said.includes('Server is ready') || child.pid === undefined) return
      clearTimeout(timer)
      resolve({ pid: child.pid })
    })
  })
}

/** Where NATS listens when nobody says otherwise. */
export const DEFAULT_PORT = 4222

export const isFree = (port: number, host = '127.0.0.1'): Promise<boolean> =>
  new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, host, () => server.close(() => resolve(true)))
  })

/** A port that nobody listens on now. Somebody else may take it before we do; then the server says so. */
export async function freePort(host = '127.0.0.1'): Promise<number> {
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    const port = randomInt(LOWEST_PORT, HIGHEST_PORT)
    if (await isFree(port, host)) return port
  }
  throw new Error(`${host} has no free port between ${LOWEST_PORT} and ${HIGHEST_PORT}`)
}

/** Below those that systems give to outgoing connections: one of these is not taken before it is used. */
const [LOWEST_PORT, HIGHEST_PORT] = [10_000, 32_768]
const MOST_TRIES = 100

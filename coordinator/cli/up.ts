import { join } from 'node:path'
import { Command } from 'commander'
import { sayOnStderr } from '@ferry/events/say'
import { DEFAULT_PORT, startNatsServer } from '../embedded/nats-server.ts'
import { coordinatorHere } from '../main.ts'
import { FENCE_HELP, fencesFrom } from './fence-file.ts'
import {
  Exit,
  ending,
  exits,
  home,
  print,
  untilInterrupted,
  withDurability,
  withLogLevel,
} from './context.ts'
import type { DurabilityOption } from './context.ts'

type Options = DurabilityOption & {
  data: string
  port: string
  name: string
  fence?: string
  logLevel: string
}

export const upVerb = (): Command =>
  withLogLevel(withDurability(new Command('up')))
    .description(
      "run everything that a small fleet needs beside its agents: the system's nats-server, and a coordinator",
    )
    .option('--data <directory>', 'where the log is kept', join(home(), '.local', 'share', 'ferry'))
    .option('--port <port>', 'where the log listens; 0 finds a free one', String(DEFAULT_PORT))
    .option('--name <name>', 'the name of the coordinator', 'up')
    .option('--fence <file>', FENCE_HELP)
    .action((options: Options) => ending(() => up(options)))

async function up({ data, port, name, durability, fence, logLevel }: Options): Promise<number> {
  const portNumber = Number(port)
  if (!Number.isInteger(portNumber) || portNumber < 0 || portNumber > 65535)
    throw new Exit(exits.usage, `--port ${port} is not a port.`)
  const fences = await fencesFrom(fence)
  const interrupted = untilInterrupted()
  const server = await startNatsServer({ dataDirectory: data, port: portNumber })
  print(
    `The log is at ${server.url}, kept in ${data}. Agents and other verbs find it with --server ${server.url}.`,
  )
  const ended = new AbortController()
  void server.ended.then(() => ended.abort(new Exit(exits.failed, 'nats-server has ended.')))
  try {
    await coordinatorHere(
      {
        name,
        address: { servers: [server.url], isSaidToSync: server.isSynced },
        durability,
        fences,
        stateDirectory: data,
      },
      sayOnStderr(`coordinator ${name}`, logLevel),
      AbortSignal.any([interrupted, ended.signal]),
    )
    if (!interrupted.aborted) ended.signal.throwIfAborted()
    return exits.done
  } finally {
    await server.stop()
  }
}

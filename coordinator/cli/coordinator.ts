import { hostname } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { sayOnStderr } from '@ferry/events/say'
import { coordinatorHere } from '../main.ts'
import { FENCE_HELP, fencesFrom } from './fence-file.ts'
import {
  Exit,
  ending,
  exits,
  home,
  logAddress,
  untilInterrupted,
  withDurability,
  withLogLevel,
  withLogOptions,
} from './context.ts'
import type { DurabilityOption, LogOptions } from './context.ts'

type Options = LogOptions &
  DurabilityOption & {
    name: string
    state: string
    replicas?: string
    synced?: boolean
    fence?: string
    logLevel: string
  }

export const coordinatorVerb = (): Command =>
  withLogLevel(withDurability(withLogOptions(new Command('coordinator'))))
    .description('run a coordinator on a log that is there already; any number may run, one leads')
    .option(
      '--name <name>',
      'its name, unlike that of any other coordinator, and the same when it is started again',
      hostname(),
    )
    .option(
      '--replicas <number>',
      'on how many servers the log stands, where it has to be made (default: 3 in a cluster)',
    )
    .option(
      '--synced',
      'every one of the servers has sync_interval: always, which NATS does not tell its clients',
    )
    .option(
      '--state <directory>',
      'where it remembers how far it has seen the log',
      join(home(), '.local', 'state', 'ferry'),
    )
    .option('--fence <file>', FENCE_HELP)
    .action((options: Options) =>
      ending(async () => {
        const { name, state: stateDirectory, durability, synced, replicas, fence } = options
        return coordinatorHere(
          {
            name,
            address: { ...logAddress(options), isSaidToSync: synced === true },
            durability,
            ...(replicas === undefined ? {} : { replicas: replicasOf(replicas) }),
            fences: await fencesFrom(fence),
            stateDirectory,
          },
          sayOnStderr(`coordinator ${name}`, options.logLevel),
          untilInterrupted(),
        )
      }),
    )

function replicasOf(text: string): number {
  const replicas = Number(text)
  if ([1, 3, 5].includes(replicas)) return replicas
  throw new Exit(exits.usage, `--replicas ${text}: a log stands on 1, 3 or 5 servers.`)
}

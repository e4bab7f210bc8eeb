import { homedir, hostname } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { sayOnStderr } from '@ferry/events/say'
import { coordinatorHere } from '../main.ts'
import { Exit, ending, exits, logAddress, untilInterrupted, withLogOptions } from './context.ts'
import type { LogOptions } from './context.ts'

type Options = LogOptions & { name: string; state: string; replicas: string; logLevel: string }

export const coordinatorVerb = (): Command =>
  withLogOptions(new Command('coordinator'))
    .description('run a coordinator on a log that is there already; any number may run, one leads')
    .option(
      '--name <name>',
      'its name, unlike that of any other coordinator',
      `${hostname()}-${process.pid}`,
    )
    .option(
      '--replicas <number>',
      'on how many servers the log stands, where it has to be made',
      '1',
    )
    .option(
      '--state <directory>',
      'where it remembers how far it has seen the log',
      join(homedir(), '.local', 'state', 'ferry'),
    )
    .option('--log-level <level>', 'debug, info, warn or error', 'info')
    .action((options: Options) =>
      ending(() => {
        const { name, state: stateDirectory } = options
        return coordinatorHere(
          {
            name,
            address: logAddress(options),
            replicas: replicasOf(options.replicas),
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

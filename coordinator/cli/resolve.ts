import { Command } from 'commander'
import { ending, exits, whoAmI, withConnection, withLogOptions, record } from './context.ts'
import type { LogOptions } from './context.ts'
import { follow } from './follow.ts'

type Options = LogOptions & {
  fenced: string
  by?: string
  evidence?: string
  insist?: boolean
  wait?: boolean
  json?: boolean
}

export const resolveVerb = (): Command =>
  withLogOptions(new Command('resolve'))
    .description('answer a migration that is in doubt: its target is off, so the source may go on')
    .argument('<migration>', 'its id')
    .requiredOption('--fenced <host>', 'the host that cannot run the guest any more')
    .option('--by <who>', 'who made sure of that (default: you)')
    .option('--evidence <text>', 'how that is known: it stands in the log')
    .option(
      '--insist',
      'although its agent is heard: only if you know that the guest does not run there and never will',
    )
    .option('-w, --wait', 'wait until the migration has ended')
    .option('--json', 'print the answer as JSON')
    .action((migration: string, options: Options) =>
      ending(() =>
        withConnection(options, async (connection) => {
          const { fenced, by = whoAmI(), evidence, insist } = options
          const isJson = options.json === true
          const wish = {
            migration,
            fenced,
            by,
            ...(evidence === undefined ? {} : { evidence }),
            ...(insist === undefined ? {} : { insist }),
          }
          await record(
            connection,
            'resolve',
            wish,
            isJson,
            (position) =>
              `${fenced} stands as fenced in the log, at position ${position}; the source runs the guest from now on.`,
          )
          if (options.wait !== true) return exits.done
          // It goes home: that is what was asked for here.
          const { phase } = await follow(connection, migration, { isQuiet: isJson })
          return phase === 'abandoned' ? exits.done : exits.failed
        }),
      ),
    )

import { Command } from 'commander'
import { ending, exits, whoAmI, withConnection, withLogOptions, record } from './context.ts'
import type { LogOptions } from './context.ts'
import { follow } from './follow.ts'

type Options = LogOptions & { json?: boolean; wait?: boolean }

export const cancelVerb = (): Command =>
  withLogOptions(new Command('cancel'))
    .description('give a migration up, as long as it is not committed')
    .argument('<migration>', 'its id')
    .option('-w, --wait', 'wait until it has ended')
    .option('--json', 'print the answer as JSON')
    .action((migration: string, options: Options) =>
      ending(() =>
        withConnection(options, async (connection) => {
          const wish = { migration, by: whoAmI() }
          await record(
            connection,
            'cancel',
            wish,
            options.json,
            (position) => `Asked to cancel ${migration}, at position ${position}.`,
          )
          if (options.wait !== true) return exits.done
          const { phase } = await follow(connection, migration, { isQuiet: options.json === true })
          // Whoever cancels wants it abandoned; the order of the log may have decided otherwise.
          return phase === 'abandoned' ? exits.done : exits.failed
        }),
      ),
    )

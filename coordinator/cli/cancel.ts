import { Command } from 'commander'
import { Answer } from '@ferry/schemas/request'
import {
  Exit,
  ending,
  exits,
  print,
  printJson,
  request,
  whoAmI,
  withConnection,
  withLogOptions,
} from './context.ts'
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
          const answer = await request(connection, 'cancel', { migration, by: whoAmI() }, Answer)
          if (options.json === true) printJson(answer)
          if (!answer.accepted)
            throw new Exit(exits.refused, options.json === true ? '' : answer.sentence)
          if (options.json !== true)
            print(`Asked to cancel ${migration}, at position ${answer.position}.`)
          if (options.wait !== true) return exits.done
          const { phase } = await follow(connection, migration, { isQuiet: options.json === true })
          // Whoever cancels wants it abandoned; the order of the log may have decided otherwise.
          return phase === 'abandoned' ? exits.done : exits.failed
        }),
      ),
    )

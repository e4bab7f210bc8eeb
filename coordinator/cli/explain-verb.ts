import { Command } from 'commander'
import { ending, print, printJson, withConnection, withLogOptions } from './context.ts'
import type { LogOptions } from './context.ts'
import { printTimeline, readTimeline } from './explain.ts'

export const explainVerb = (): Command =>
  withLogOptions(new Command('explain'))
    .description('tell what happened in a migration, from the log alone')
    .argument('<migration>', 'its id')
    .option('--json', 'print the timeline as JSON')
    .action((migration: string, options: LogOptions & { json?: boolean }) =>
      ending(() =>
        withConnection(options, async (connection) => {
          const timeline = await readTimeline(connection, migration)
          if (options.json === true) printJson(timeline)
          else print(printTimeline(timeline))
        }),
      ),
    )

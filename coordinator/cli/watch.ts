import { Command } from 'commander'
import {
  Exit,
  ending,
  exits,
  print,
  untilInterrupted,
  untilUnread,
  withConnection,
  withLogOptions,
} from './context.ts'
import type { LogOptions } from './context.ts'
import { describeEntry } from './describe.ts'

type Options = LogOptions & { from?: string; json?: boolean }

export const watchVerb = (): Command =>
  withLogOptions(new Command('watch'))
    .description('print every entry of the log as it comes, until interrupted')
    .option(
      '--from <position>',
      'begin there; 1 is the first entry of all (default: what comes from now on)',
    )
    .option('--json', 'one JSON object a line')
    .action((options: Options) =>
      ending(() =>
        withConnection(options, async ({ log }) => {
          const signal = AbortSignal.any([untilInterrupted(), untilUnread()])
          const after = options.from === undefined ? await log.head() : positionOf(options.from) - 1
          for await (const entry of log.follow({ after, signal }))
            print(options.json === true ? JSON.stringify(entry) : describeEntry(entry))
        }),
      ),
    )

function positionOf(text: string): number {
  const position = Number(text)
  if (Number.isSafeInteger(position) && position >= 1) return position
  throw new Exit(exits.usage, `--from ${text} is not a position; the first one is 1.`)
}

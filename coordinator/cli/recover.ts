import { Command } from 'commander'
import { Exit, ending, exits, whoAmI, withConnection, withLogOptions, record } from './context.ts'
import type { LogOptions } from './context.ts'
import { showFindings } from './doctor-fleet.ts'

type Options = LogOptions & {
  by?: string
  evidence?: string
  without: string[]
  guest: string[]
  lost: string[]
  json?: boolean
}

const several = (value: string, before: string[]) => [...before, value]

export const recoverVerb = (): Command =>
  withLogOptions(new Command('recover'))
    .description(
      'after the log has lost its tail: accept it as it is, and record where each guest belongs',
    )
    .option('--by <who>', 'who answers for it (default: you)')
    .option('--evidence <text>', 'what was looked at')
    .option('--without <host>', 'a silent host that is certainly off; again for each', several, [])
    .option('--guest <vm=host>', 'where a guest belongs that the hosts leave open', several, [])
    .option('--lost <vm>', 'a guest of which no copy is left', several, [])
    .option('--json', 'print the answer as JSON')
    .action((options: Options) =>
      ending(() =>
        withConnection(options, async (connection) => {
          const { by = whoAmI(), evidence, without, json } = options
          const guests = [...options.guest.map(placeIn), ...options.lost.map((vm) => ({ vm }))]
          if (json !== true) await showFindings(connection)
          const body = {
            by,
            without,
            guests,
            ...(evidence === undefined ? {} : { evidence }),
          }
          await record(
            connection,
            'recover',
            body,
            json,
            (position) =>
              `Recovered at position ${position}: the log counts as it is, and work goes on.`,
          )
          return exits.done
        }),
      ),
    )

/** The last `=` parts them: a host's name has none as a rule, a guest's may. */
function placeIn(text: string): { vm: string; host: string } {
  const at = text.lastIndexOf('=')
  if (at <= 0 || at === text.length - 1)
    throw new Exit(exits.usage, `--guest ${text}: write it as VM=HOST.`)
  return { vm: text.slice(0, at), host: text.slice(at + 1) }
}

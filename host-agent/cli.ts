import { Command, Option } from 'commander'
import { levels, sayOnStderr } from '@ferry/events/say'
import { agentOnThisHost } from './main.ts'
import { readHostFile } from './settings.ts'

type Options = { config: string; logLevel: string }

/** The agent's verb. `ending` turns whatever goes wrong into a sentence and an exit code. */
export const agentVerb = (
  ending: (work: () => Promise<void>) => Promise<void>,
  untilInterrupted: () => AbortSignal,
): Command =>
  new Command('agent')
    .description('run the agent of this host; stopping it touches no guest')
    .requiredOption('--config <file>', 'its host.json')
    .addOption(
      new Option('--log-level <level>', 'how much it says').choices(levels).default('info'),
    )
    .action(({ config, logLevel }: Options) =>
      ending(async () => {
        const settings = await readHostFile(config)
        await agentOnThisHost(
          settings,
          sayOnStderr(`agent ${settings.host}`, logLevel),
          logLevel,
          untilInterrupted(),
        )
      }),
    )

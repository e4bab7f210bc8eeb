import { Command } from 'commander'
import { sayOnStderr } from '@ferry/events/say'
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
    .option('--log-level <level>', 'debug, info, warn or error', 'info')
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

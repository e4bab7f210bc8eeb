import { Command } from 'commander'
import { complete } from '@ferry/coordinator/cli/completion'
import { ending, exits, unlessUnread, untilInterrupted } from '@ferry/coordinator/cli/context'
import { verbs } from '@ferry/coordinator/cli/verbs'
import { VERSION } from '@ferry/coordinator/version'
import { agentVerb } from '@ferry/host-agent/cli'
import { checkHost } from '@ferry/host-agent/doctor'

/** The command line: the one place that knows both the coordinator and the agent. */
const program = new Command('ferry')
  .description(
    'Moves running virtual machines between hosts, and can always say which copy is the real one.',
  )
  .version(VERSION)
  .showHelpAfterError('(--help shows what there is)')
  .addHelpText(
    'after',
    `
Exit codes: ${exits.done} done · ${exits.failed} tried, and it did not happen · ${exits.usage} wrong words or files · ${exits.refused} refused · ${exits.unavailable} the log or a coordinator does not answer`,
  )
  .exitOverride((error) => {
    process.exit(error.exitCode === 0 ? exits.done : exits.usage)
  })
for (const output of [process.stdout, process.stderr]) output.on('error', unlessUnread)
for (const verb of [...verbs(checkHost), agentVerb(ending, untilInterrupted)])
  program.addCommand(verb.copyInheritedSettings(program))
program.addCommand(complete(program).copyInheritedSettings(program))
await program.parseAsync()
// A socket takes what is long in pieces: all of it goes out first.
await new Promise<void>((resolve) => {
  process.stdout.write('', () => resolve())
})
// Not by itself: a connection that was just being made anew when it was closed leaves a socket open (nats.js).
process.exit()

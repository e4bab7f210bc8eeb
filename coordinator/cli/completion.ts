import { Command } from 'commander'
import { print } from './context.ts'

/** A verb that prints a completion script, made from the verbs and options that there are. */
export const complete = (program: Command): Command =>
  new Command('completion')
    .description('print a completion script for bash: eval "$(ferry completion)"')
    .action(() => {
      const cases = program.commands.map((verb) => {
        const options = verb.options.flatMap(({ long }) => (long === undefined ? [] : [long]))
        return `    ${verb.name()}) words="${[...options, '--help'].join(' ')}" ;;`
      })
      const names = program.commands.map((verb) => verb.name()).join(' ')
      print(
        [
          '_ferry() {',
          '  local words',
          '  case "${COMP_WORDS[1]}" in',
          ...cases,
          `    *) words="${names}" ;;`,
          '  esac',
          `  [ "$COMP_CWORD" -eq 1 ] && words="${names}"`,
          '  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))',
          '}',
          'complete -o default -F _ferry ferry',
        ].join('\n'),
      )
    })

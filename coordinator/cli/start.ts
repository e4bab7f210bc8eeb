import { Command } from 'commander'
import { Answer } from '@ferry/schemas/request'
import { FleetView } from '@ferry/schemas/view'
import { systemClock } from '@ferry/events/clock'
import type { Connection } from '@ferry/events/log/connect'
import {
  Exit,
  ending,
  exits,
  newId,
  print,
  printJson,
  request,
  whoAmI,
  withConnection,
  withLogOptions,
} from './context.ts'
import type { LogOptions } from './context.ts'

type Options = LogOptions & { on: string; json?: boolean }

const LOOK_EVERY_MS = 200
const PATIENCE_MS = 60_000

export const startVerb = (): Command =>
  withLogOptions(new Command('start'))
    .description('start a guest on a host that has its definition')
    .argument('<vm>', 'the guest')
    .requiredOption('--on <host>', 'where')
    .option('--json', 'print the answer as JSON')
    .action((vm: string, options: Options) =>
      ending(() => withConnection(options, (connection) => start(connection, vm, options))),
    )

async function start(
  connection: Connection,
  vm: string,
  { on: host, json }: Options,
): Promise<number> {
  const answer = await request(
    connection,
    'start',
    { request: newId(), vm, host, by: whoAmI() },
    Answer,
  )
  if (!answer.accepted) {
    if (json === true) printJson(answer)
    throw new Exit(exits.refused, json === true ? '' : answer.sentence)
  }
  const began = systemClock.elapsed()
  while (systemClock.elapsed() - began < PATIENCE_MS) {
    const { position, guests } = await request(connection, 'fleet', {}, FleetView)
    const guest = guests.find((each) => each.vm === vm)
    const isThere = guest?.copies.some((copy) => copy.host === host && copy.state === 'running')
    // Another coordinator may not have heard of the order yet.
    const isHeard = position >= answer.position
    if (isHeard && isThere === true) {
      if (json === true) printJson(answer)
      else print(`${vm} runs on ${host}.`)
      return exits.done
    }
    if (isHeard && guest?.startingOn === undefined)
      throw new Exit(
        exits.failed,
        `${host} would not start ${vm}; \`ferry watch --from ${answer.position}\` shows why.`,
      )
    await systemClock.sleep(LOOK_EVERY_MS)
  }
  throw new Exit(exits.unavailable, `${host} has not answered; it is asked again until it does.`)
}

import { Command } from 'commander'
import { Answer } from '@ferry/schemas/request'
import type { MigrateRequest } from '@ferry/schemas/request'
import type { Connection } from '@ferry/events/log/connect'
import {
  Exit,
  ending,
  exits,
  newId,
  number,
  print,
  printJson,
  request,
  whoAmI,
  withConnection,
  withLogOptions,
} from './context.ts'
import type { LogOptions } from './context.ts'
import { printTimeline, readTimeline } from './explain.ts'
import { follow } from './follow.ts'
import { readLimits } from './limit.ts'
import type { LimitOptions } from './limit.ts'

type Options = LogOptions &
  LimitOptions & {
    to?: string
    autoConverge?: boolean
    copyDisks?: boolean
    direct?: boolean
    connections?: string
    postCopyAfter?: string
    timeout?: string
    attempts?: string
    request?: string
    wait?: boolean
    json?: boolean
  }

export const migrateVerb = (): Command =>
  withLogOptions(new Command('migrate'))
    .description('move a running guest to another host')
    .argument('<vm>', 'the guest')
    .option(
      '--to <host>',
      'the target; without it, the host with the most room that can take the guest',
    )
    .option('--bandwidth <rate>', 'no faster than this, for example 100M (bytes per second)')
    .option('--downtime <ms>', 'the downtime to aim at, in milliseconds (default 300)')
    .option('--auto-converge', 'slow the guest down when it makes its memory dirty too fast')
    .option('--copy-disks', 'take disks along that the hosts do not share (libvirt)')
    .option(
      '--direct',
      'let the hypervisors move the image by themselves, in the clear, in a network that nobody else reaches (libvirt)',
    )
    .option('--connections <number>', 'over so many connections at once, with --direct (default 1)')
    .option(
      '--post-copy-after <seconds>',
      'start it at the target before all of its memory is there, once the memory has been sent and so long has passed; until the rest is there it is lost with either host (with --direct)',
    )
    .option('--timeout <seconds>', 'give up after so long (default 3600)')
    .option('--attempts <number>', 'try so often in all (default 3)')
    .option('--request <id>', 'the id of the request: asking twice with one id is asking once')
    .option('-w, --wait', 'show the progress, and wait until it has ended')
    .option('--json', 'print the answer, and with --wait the timeline, as JSON')
    .action((vm: string, options: Options) =>
      ending(() => withConnection(options, (connection) => migrate(connection, vm, options))),
    )

async function migrate(connection: Connection, vm: string, options: Options): Promise<number> {
  const isJson = options.json === true
  const answer = await request(connection, 'migrate', wish(vm, options), Answer)
  if (!answer.accepted) {
    if (isJson) printJson(answer)
    throw new Exit(exits.refused, isJson ? '' : answer.sentence)
  }
  if (options.wait !== true) {
    if (isJson) printJson(answer)
    else
      print(
        `${answer.id} stands in the log at position ${answer.position}. \`ferry explain ${answer.id}\` tells how it goes.`,
      )
    return exits.done
  }
  const { phase } = await follow(connection, answer.id, { isQuiet: isJson })
  const timeline = await readTimeline(connection, answer.id)
  if (isJson) printJson(timeline)
  else print(`\n${printTimeline(timeline)}`)
  return phase === 'completed' ? exits.done : exits.failed
}

function wish(vm: string, options: Options): MigrateRequest {
  const { to, autoConverge, copyDisks, timeout, attempts, request: id = newId() } = options
  const directConnections = readDirect(options)
  const { postCopyAfter } = options
  const { bandwidthBytesPerSecond, ...limits } = readLimits(options)
  const policy = {
    ...limits,
    // None is what is taken when nothing is said.
    ...(typeof bandwidthBytesPerSecond === 'number' ? { bandwidthBytesPerSecond } : {}),
    ...(autoConverge === undefined ? {} : { autoConverge }),
    ...(copyDisks === undefined ? {} : { copyDisks }),
    ...(directConnections === undefined ? {} : { directConnections }),
    ...(postCopyAfter === undefined
      ? {}
      : { postCopyAfterMs: number('--post-copy-after', postCopyAfter) * 1000 }),
    ...(timeout === undefined ? {} : { timeoutMs: number('--timeout', timeout) * 1000 }),
    ...(attempts === undefined ? {} : { attempts: number('--attempts', attempts) }),
  }
  return { request: id, vm, ...(to === undefined ? {} : { target: to }), policy, by: whoAmI() }
}

function readDirect({ direct = false, connections }: Options): number | undefined {
  if (direct) return connections === undefined ? 1 : number('--connections', connections)
  if (connections === undefined) return undefined
  throw new Exit(
    exits.usage,
    "--connections is for --direct: Ferry's own stream takes one connection.",
  )
}

import { Command } from 'commander'
import { FleetView } from '@ferry/schemas/view'
import { bad, doubtful, good } from '@ferry/events/check'
import type { Check } from '@ferry/events/check'
import { systemClock } from '@ferry/events/clock'
import { findings } from '@ferry/events/durability'
import { LogUnavailable } from '@ferry/events/log'
import type { Connection } from '@ferry/events/log/connect'
import {
  ending,
  exits,
  print,
  printJson,
  request,
  withConnection,
  withLogOptions,
} from './context.ts'
import type { LogOptions } from './context.ts'
import { snapshotCheck } from './check-snapshot.ts'
import { doctorFleet } from './doctor-fleet.ts'
import { installedVersion } from '../embedded/nats-server.ts'
import { duration, table } from './words.ts'

/** What is asked about this host's hypervisor, ports and storage: the agent's matter, given by whoever puts both together. */
export type HostChecks = (configFile: string | undefined) => Promise<Check[]>

type Options = LogOptions & {
  config?: string
  fleet?: boolean
  replay?: boolean
  json?: boolean
}

export const doctorVerb = (hostChecks: HostChecks): Command =>
  withLogOptions(new Command('doctor'))
    .description('look at everything that Ferry needs, and say what to do about what is missing')
    .option(
      '--config <file>',
      "this host's host.json: look at its ports, storage and definitions as well",
    )
    .option('--replay', 'fold the whole log again, and compare the newest snapshot with it by hash')
    .option('--fleet', 'compare the log with what every host says that runs there, instead')
    .option('--json', 'print it as JSON')
    .action((options: Options) =>
      ending(async () => {
        if (options.fleet === true) return doctorFleet(options)
        const checks = [
          await installedServer(),
          ...(await logChecks(options)),
          ...(await hostChecks(options.config)),
        ]
        if (options.json === true) printJson(checks)
        else print(checksText(checks))
        return checks.some(({ is }) => is === 'bad') ? exits.failed : exits.done
      }),
    )

const marks = { good: 'good    ', doubtful: 'doubtful', bad: 'BAD     ' }

function checksText(checks: readonly Check[]): string {
  const lines = table(checks.map(({ what, is, found }) => [marks[is], what, found])).split('\n')
  return checks
    .flatMap(({ todo }, nth) => [
      lines[nth] ?? '',
      ...(todo === undefined ? [] : [`          → ${todo}`]),
    ])
    .join('\n')
}

async function installedServer(): Promise<Check> {
  const what = 'nats-server on this machine'
  try {
    return good(what, await installedVersion())
  } catch {
    return doubtful(
      what,
      'none',
      '`ferry up` needs it: apt-get install nats-server. A fleet may run it elsewhere.',
    )
  }
}

async function logChecks(options: LogOptions): Promise<Check[]> {
  try {
    return await withConnection(options, (connection) => lookAtLog(connection, options))
  } catch (error) {
    if (!(error instanceof LogUnavailable)) throw error
    const todo = 'Start one with `ferry up`, or name it with --server or FERRY_SERVER.'
    return [bad('the log', error.message, todo)]
  }
}

async function lookAtLog(connection: Connection, options: Options): Promise<Check[]> {
  const { facts, log, heartbeats } = connection
  return [
    ...findings(facts),
    good('the log', `is at position ${await log.head()}`),
    await snapshotCheck(connection, { isReplayed: options.replay === true }),
    await clockCheck(heartbeats),
    ...(await fleetChecks(connection)),
  ]
}

/** More than this, and times told by two hosts can hardly be compared. */
const CLOCK_LIMIT_MS = 100

async function clockCheck(heartbeats: Connection['heartbeats']): Promise<Check> {
  const what = "this machine's clock"
  const key = `doctor.${process.pid}`
  const sentAt = systemClock.now()
  await heartbeats.put(key, '')
  const errorMs = (systemClock.now() - sentAt) / 2
  const register = await heartbeats.read(key)
  if (register === undefined) return doubtful(what, 'could not be compared', 'Try again.')
  const offsetMs = sentAt + errorMs - register.writtenAt
  const found = `${duration(Math.abs(offsetMs))} ${offsetMs < 0 ? 'behind' : 'ahead of'} the log's, ± ${duration(errorMs + 1)}`
  return Math.abs(offsetMs) - errorMs > CLOCK_LIMIT_MS
    ? doubtful(
        what,
        found,
        'Let NTP (chrony) set it. Nothing is decided by clocks, but downtimes are measured with them.',
      )
    : good(what, found)
}

async function fleetChecks(connection: Connection): Promise<Check[]> {
  try {
    const { leader, hosts, guests } = await request(connection, 'fleet', {}, FleetView)
    const silent = hosts.filter(({ isAlive }) => !isAlive).map(({ host }) => host)
    const twice = guests.filter(({ isAlarming }) => isAlarming).map(({ vm }) => vm)
    return [
      leader === undefined
        ? bad(
            'coordinator',
            'one answers, but nobody leads',
            'Wait two seconds; if it stays, look at its log.',
          )
        : good('coordinator', `${leader} leads`),
      silent.length > 0
        ? doubtful(
            'hosts',
            `${hosts.length}, of which silent: ${silent.join(', ')}`,
            'Look at the agent there: systemctl status ferry-agent',
          )
        : good('hosts', `${hosts.length}, all alive`),
      ...(twice.length > 0
        ? [
            bad(
              'guests',
              `running twice: ${twice.join(', ')}`,
              'Stop one copy by hand, now; `ferry fleet` shows where they are.',
            ),
          ]
        : []),
    ]
  } catch (error) {
    if (!(error instanceof LogUnavailable)) throw error
    return [bad('coordinator', 'none answers', 'Start one with `ferry coordinator`.')]
  }
}

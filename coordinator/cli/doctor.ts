import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { Command } from 'commander'
import { FleetView } from '@ferry/schemas/view'
import { bad, doubtful, good } from '@ferry/events/check'
import type { Check } from '@ferry/events/check'
import { systemClock } from '@ferry/events/clock'
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
import { doctorFleet } from './doctor-fleet.ts'
import { duration, table } from './words.ts'

/** What is asked about this host's hypervisor, ports and storage: the agent's matter, given by whoever puts both together. */
export type HostChecks = (configFile: string | undefined) => Promise<Check[]>

type Options = LogOptions & { config?: string; fleet?: boolean; json?: boolean }

export const doctorVerb = (hostChecks: HostChecks): Command =>
  withLogOptions(new Command('doctor'))
    .description('look at everything that Ferry needs, and say what to do about what is missing')
    .option(
      '--config <file>',
      "this host's host.json: look at its ports, storage and definitions as well",
    )
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
    const { stdout } = await promisify(execFile)('nats-server', ['--version'])
    return good(what, stdout.trim())
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
    return await withConnection(options, (connection) => lookAtLog(connection))
  } catch (error) {
    if (!(error instanceof LogUnavailable)) throw error
    const todo = 'Start one with `ferry up`, or name it with --server or FERRY_SERVER.'
    return [bad('the log', error.message, todo)]
  }
}

/** Before these, a server does not have what is named (`DECISIONS.md`, "Old servers"). */
const SAFE_IN_CLUSTER = [2, 9, 21]
const SYNC_ALWAYS = [2, 10, 0]

async function lookAtLog(connection: Connection): Promise<Check[]> {
  const { server, log, heartbeats } = connection
  const checks: Check[] = []
  const version = server.version.split('.').map(Number)
  const where = `${server.version} at ${server.url}`
  checks.push(
    server.replicas > 1 && isBefore(version, SAFE_IN_CLUSTER)
      ? doubtful(
          'nats-server',
          where,
          'A cluster before 2.9.21 lets two guarded writers through; Ferry reads back and is safe, but upgrade it.',
        )
      : good('nats-server', where),
  )
  const position = await log.head()
  const single =
    'One server keeps the log in memory for up to two minutes before it is on its disk.'
  checks.push(
    server.replicas > 1
      ? good('JetStream', `the log is at position ${position}, on ${server.replicas} servers`)
      : doubtful(
          'JetStream',
          `the log is at position ${position}, on one server`,
          isBefore(version, SYNC_ALWAYS)
            ? `${single} For production run three of them.`
            : `${single} For production run three of them, or set sync_interval: always.`,
        ),
  )
  checks.push(await clockCheck(heartbeats))
  checks.push(...(await fleetChecks(connection)))
  return checks
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

function isBefore(version: readonly number[], limit: readonly number[]): boolean {
  for (const [at, part] of limit.entries()) {
    const mine = version[at] ?? 0
    if (mine !== part) return mine < part
  }
  return false
}

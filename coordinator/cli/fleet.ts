import { Command } from 'commander'
import { FleetView } from '@ferry/schemas/view'
import { ending, print, printJson, request, withConnection, withLogOptions } from './context.ts'
import type { LogOptions } from './context.ts'
import { duration, size, table } from './words.ts'

export const fleetVerb = (): Command =>
  withLogOptions(new Command('fleet'))
    .description('show all hosts, all guests, and what is being moved')
    .option('--json', 'print it as JSON')
    .action((options: LogOptions & { json?: boolean }) =>
      ending(() =>
        withConnection(options, async (connection) => {
          const fleet = await request(connection, 'fleet', {}, FleetView)
          if (options.json === true) printJson(fleet)
          else print(fleetText(fleet))
        }),
      ),
    )

/** What `ferry fleet` prints. */
export function fleetText({ position, leader, hosts, guests }: FleetView): string {
  const now = Date.now()
  return [
    `at position ${position}, ${leader === undefined ? 'and nobody leads' : `led by ${leader}`}`,
    '',
    table([
      ['host', 'alive', 'agent', 'hypervisor', 'memory used', 'of', 'transfers at'],
      ...hosts.map(
        ({ host, isAlive, agentVersion, hypervisor, usedBytes, memoryBytes, address }) => [
          host,
          isAlive ? 'yes' : 'silent',
          agentVersion,
          hypervisor,
          size(usedBytes),
          size(memoryBytes),
          address,
        ],
      ),
    ]),
    '',
    table([
      ['guest', 'where', 'memory', 'migration'],
      ...guests.map(({ vm, copies, isAlarming, startingOn, migration }) => [
        vm,
        (isAlarming ? 'TWICE: ' : '') +
          (copies.map(copyText).join(', ') ||
            (startingOn === undefined ? 'nowhere' : `ordered to start on ${startingOn}`)),
        size(copies[0]?.needs.memoryBytes ?? 0),
        migration === undefined
          ? ''
          : `${migration.migration}: ${migration.phase}${migration.target === undefined ? '' : ` to ${migration.target}`}` +
            (migration.waitsFor === undefined ? '' : `. ${migration.waitsFor}`) +
            (migration.sentence === undefined ? '' : `, ${migration.sentence}`) +
            (['completed', 'abandoned'].includes(migration.phase)
              ? ''
              : `, for ${duration(now - migration.phaseSince)}`),
      ]),
    ]),
  ].join('\n')
}

const copyText = ({ host, state, sentence }: FleetView['guests'][number]['copies'][number]) =>
  `${host} (${state}${sentence === undefined ? '' : `; cannot leave: ${sentence}`})`

import { Command } from 'commander'
import type { Limits } from '@ferry/schemas/policy'
import {
  Exit,
  ending,
  exits,
  number,
  whoAmI,
  withConnection,
  withLogOptions,
  record,
} from './context.ts'
import type { LogOptions } from './context.ts'
import { parseSize } from './words.ts'

type Options = LogOptions & LimitOptions & { json?: boolean }

/** Limits as an operator writes them. */
export type LimitOptions = { bandwidth?: string; downtime?: string }

export const limitVerb = (): Command =>
  withLogOptions(new Command('limit'))
    .description('change the bandwidth or the downtime of a migration that is on its way')
    .argument('<migration>', 'its id')
    .option('--bandwidth <rate>', 'no faster than this, for example 100M; `none`: no limit')
    .option('--downtime <ms>', 'the downtime to aim at, in milliseconds')
    .option('--json', 'print the answer as JSON')
    .action((migration: string, options: Options) =>
      ending(() =>
        withConnection(options, async (connection) => {
          const limits = readLimits(options)
          if (Object.keys(limits).length === 0)
            throw new Exit(exits.usage, 'Say --bandwidth or --downtime, or both.')
          const wish = { migration, ...limits, by: whoAmI() }
          await record(
            connection,
            'limit',
            wish,
            options.json,
            (position) => `The limits of ${migration} stand in the log at position ${position}.`,
          )
          return exits.done
        }),
      ),
    )

export function readLimits({ bandwidth, downtime }: LimitOptions): Limits {
  return {
    ...(bandwidth === undefined ? {} : { bandwidthBytesPerSecond: readBandwidth(bandwidth) }),
    ...(downtime === undefined ? {} : { downtimeMs: number('--downtime', downtime) }),
  }
}

function readBandwidth(text: string): number | null {
  if (text === 'none') return null
  const bytesPerSecond = parseSize(text)
  if (bytesPerSecond !== undefined) return bytesPerSecond
  throw new Exit(
    exits.usage,
    `--bandwidth ${text} is not a rate; write 100M or 1.5G, in bytes per second, or none.`,
  )
}

import { FleetView } from '@ferry/schemas/view'
import { emptyFleet, follow } from '@ferry/events/fleet'
import type { Connection } from '@ferry/events/log/connect'
import { findings } from '../decide/findings.ts'
import type { Finding } from '../decide/findings.ts'
import { exits, print, printJson, request, withConnection } from './context.ts'
import type { LogOptions } from './context.ts'
import { READING } from './reading.ts'

/** `ferry doctor --fleet`: the log, folded here, against what the hosts say; who is alive, a coordinator knows. */
export const doctorFleet = (options: LogOptions & { readonly json?: boolean }): Promise<number> =>
  withConnection(options, async (connection) => {
    const found =
      options.json === true ? await findingsNow(connection) : await showFindings(connection)
    if (options.json === true) printJson(found)
    return found.length > 0 ? exits.failed : exits.done
  })

export async function showFindings(connection: Connection): Promise<Finding[]> {
  const found = await findingsNow(connection)
  print(found.length === 0 ? 'Log and world agree.' : found.map(text).join('\n'))
  return found
}

async function findingsNow(connection: Connection): Promise<Finding[]> {
  const fleet = emptyFleet()
  for await (const entry of connection.log.read({ after: 0, ...READING })) follow(fleet, entry)
  const { hosts } = await request(connection, 'fleet', {}, FleetView)
  const alive = hosts.filter(({ isAlive }) => isAlive).map(({ host }) => host)
  return findings(fleet, new Set(alive))
}

const text = ({ name, about, found, cites, todo }: Finding): string =>
  `${name.padEnd(13)} ${about}: ${found} [${cites.join(', ')}]\n              → ${todo}`

import * as fleets from '@ferry/events/fleet'
import type { MakeChecker } from '../checker.ts'
import type { LogServer } from '../log-server.ts'
import { Violation } from '../violation.ts'

/** I8: from the start, or live through any number of crashes: the same log gives the same state. */
export const i8: MakeChecker = ({ server, fleet, coordinators }) => ({
  atEnd: async () => {
    const whole = fleets.fingerprint(fleet)
    const known = new Map<number, string>()
    const upTo = async (position: number) => {
      const fingerprint = known.get(position) ?? (await replayed(server, position))
      known.set(position, fingerprint)
      return fingerprint
    }
    if ((await upTo(server.entries.length)) !== whole)
      throw new Violation('I8', 'a replay gives another state than following did')
    for (const { name, fleet: seen } of coordinators())
      if (fleets.fingerprint(seen()) !== (await upTo(seen().position)))
        throw new Violation('I8', `${name} has another state than a replay gives`)
  },
})

async function replayed({ entries }: LogServer, position: number): Promise<string> {
  async function* read() {
    yield* entries.slice(0, position)
  }
  return fleets.fingerprint(await fleets.replay(read()))
}

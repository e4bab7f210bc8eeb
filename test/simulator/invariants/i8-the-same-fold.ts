import * as fleets from '@ferry/events/fleet'
import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'

/** I8: from the start, or live through any number of crashes: the same log gives the same state. */
export const i8: MakeChecker = ({ server, fleet, coordinators }) => ({
  atEnd: async () => {
    const whole = fleets.fingerprint(fleet)
    const upTo = async (position: number) =>
      fleets.fingerprint(
        await fleets.replay(
          (async function* () {
            yield* server.entries.slice(0, position)
          })(),
        ),
      )
    if ((await upTo(server.entries.length)) !== whole)
      throw new Violation('I8', 'a replay gives another state than following did')
    for (const { name, fleet: seen } of coordinators())
      if (fleets.fingerprint(seen()) !== (await upTo(seen().position)))
        throw new Violation('I8', `${name} has another state than a replay gives`)
  },
})

import type { MakeChecker } from '../checker.ts'
import { Violation } from '../violation.ts'

/** I11: no secret stands in the log in clear. */
export const i11: MakeChecker = ({ server, secrets }) => ({
  atEnd: () => {
    const everything = server.bodies.join('\n')
    for (const secret of secrets) {
      const bytes = Buffer.from(secret)
      for (const form of [bytes.toString('base64').replace(/=+$/, ''), bytes.toString('hex')])
        if (everything.includes(form))
          throw new Violation('I11', 'a transfer key stands in the log')
    }
  },
})

import type { Command } from 'commander'
import { coordinatorVerb } from './coordinator.ts'
import { doctorVerb } from './doctor.ts'
import type { HostChecks } from './doctor.ts'
import { explainVerb } from './explain-verb.ts'
import { cancelVerb } from './cancel.ts'
import { fleetVerb } from './fleet.ts'
import { limitVerb } from './limit.ts'
import { migrateVerb } from './migrate.ts'
import { recoverVerb } from './recover.ts'
import { resolveVerb } from './resolve.ts'
import { startVerb } from './start.ts'
import { upVerb } from './up.ts'
import { watchVerb } from './watch.ts'

/** Every verb of the command line that is not an agent's, in the order in which a new operator meets them. */
export const verbs = (hostChecks: HostChecks): Command[] => [
  upVerb(),
  coordinatorVerb(),
  startVerb(),
  migrateVerb(),
  cancelVerb(),
  limitVerb(),
  resolveVerb(),
  fleetVerb(),
  watchVerb(),
  explainVerb(),
  doctorVerb(hostChecks),
  recoverVerb(),
]

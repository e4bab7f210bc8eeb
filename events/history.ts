import { mustBeKnown } from './entry.ts'
import type { Entry } from './entry.ts'
import { replay } from './fleet.ts'
import type { Fleet } from './fleet.ts'
import type { Log, Patience } from './log.ts'
import { decisions, filters } from './subjects.ts'

/**
 * Everything that the log says about one guest, in its order: what it takes to fold that guest and nothing else. All
 * its migrations are in it, because each decision names the one before; and all admissions, for the same reason, and
 * all recoveries of the log, which may say where it belongs.
 */
export async function* historyOf(
  log: Log,
  vm: string,
  patience: Patience = {},
): AsyncGenerator<Entry, void, undefined> {
  // One moment for all subjects: without it a late answer could be missing beside a decision that came after it.
  const upTo = await log.head(patience)
  const read = async (subject: string): Promise<Entry[]> => {
    const entries: Entry[] = []
    for await (const entry of log.read({ after: 0, subject, ...patience }))
      if (entry.position <= upTo) entries.push(entry)
    return entries
  }
  const decided = await read(decisions(vm))
  const migrations = new Set(decided.flatMap(migrationIn))
  const rest = [
    filters.ledger,
    filters.commandsAbout(vm),
    filters.factsAbout(vm),
    filters.recovery,
    ...[...migrations].map(filters.verdictsOn),
  ]
  const entries = [...decided, ...(await Promise.all(rest.map(read))).flat()]
  yield* entries.toSorted((a, b) => a.position - b.position)
}

/**
 * One guest as everybody sees it, for those who do not follow the whole log.
 *
 * @throws {NewerLog} when a newer release has decided something about it that this one cannot judge.
 */
export const foldHistory = (log: Log, vm: string): Promise<Fleet> => replay(judged(log, vm))

async function* judged(log: Log, vm: string): AsyncGenerator<Entry, void, undefined> {
  for await (const entry of historyOf(log, vm)) {
    // What is asked of hosts and what they answer decides nothing for whoever does not know it.
    if (!/^ferry\.(command|fact)\./.test(entry.subject)) mustBeKnown(entry)
    yield entry
  }
}

const migrationIn = ({ message }: Entry): string[] =>
  message.is === 'event' && 'migration' in message.event ? [message.event.migration] : []

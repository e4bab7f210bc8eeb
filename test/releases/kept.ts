import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { readEntry } from '@ferry/events/entry'
import type { Entry } from '@ferry/events/entry'
import { emptyFleet, follow, migrationOf } from '@ferry/events/fleet'
import { runningOn } from '@ferry/events/guest'
import { targetOf } from '@ferry/events/migration'
import { causeSentence } from '@ferry/events/sentences'
import { messages } from '@ferry/schemas/messages'
import type { TSchema } from 'typebox'

/**
 * What is kept of each release, in a folder of its own: a log that it wrote, what became of that, and which fields each
 * of its messages must have. `npm run record` adds the present one.
 */
export const KEPT = join(import.meta.dirname, '..', 'golden', 'releases')

export type Stored = {
  readonly position: number
  readonly storedAt: number
  readonly subject: string
  readonly body: string
}

/** One entry a line. */
export async function keptLog(release: string): Promise<Entry[]> {
  const text = await readFile(join(KEPT, release, 'log.ndjson'), 'utf8')
  const lines = text.trimEnd().split('\n')
  return lines.map((line) => readEntry(JSON.parse(line) as Stored))
}

/** What everybody who folds this log must agree on: how each migration ended, where each guest runs, and what was void. */
export function outcomeOf(entries: readonly Entry[]): string {
  const fleet = emptyFleet()
  const lines: string[] = []
  for (const entry of entries) {
    const ruling = follow(fleet, entry)
    if ('why' in ruling) lines.push(`void #${entry.position} on ${entry.subject}: ${ruling.why}`)
  }
  for (const id of fleet.index.keys()) {
    const migration = migrationOf(fleet, id)
    if (migration === undefined) continue
    const { phase, source, attempt, end } = migration
    const cause = end?.cause === undefined ? '' : `: ${causeSentence(end.cause)}`
    lines.push(
      `${id} ${phase} #${end?.position}, from ${source} to ${targetOf(migration)}, attempt ${attempt.number}, ${attempt.verdict?.type} #${attempt.verdict?.position}${cause}`,
    )
  }
  for (const guest of fleet.guests.values())
    lines.push(
      `${guest.vm} runs on ${runningOn(guest).join(' and ')}, its last decision is #${guest.head}`,
    )
  return `${lines.join('\n')}\n`
}

/** `Begin.v1: host admission ... policy.downtimeMs`: all that a reader of that version may count on. */
export const requiredFields = (): string[] =>
  Object.entries(messages)
    .map(([name, { version, data }]) => `${name}.v${version}: ${requiredIn(data).join(' ')}`)
    .toSorted()

/** Of a field that may be absent nothing is required: it may be new. */
function requiredIn(schema: TSchema, path = ''): string[] {
  const { required = [], properties = {}, items } = schema as Parts
  const inFields = required.flatMap((name) => {
    const place = path === '' ? name : `${path}.${name}`
    return [place, ...requiredIn(properties[name] ?? {}, place)]
  })
  return items === undefined ? inFields : [...inFields, ...requiredIn(items, `${path}[]`)]
}

type Parts = { required?: string[]; properties?: { [name: string]: TSchema }; items?: TSchema }

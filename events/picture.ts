import { phases } from './phases.ts'
import type { PhaseName } from './phases.ts'

/** The phase table as a Mermaid diagram: what moves a migration from where to where. The README shows it. */
export function picture(): string {
  const names = Object.keys(phases).filter((name): name is PhaseName => Object.hasOwn(phases, name))
  const lines = ['stateDiagram-v2', '  [*] --> queued: MigrationRequested']
  for (const name of names) {
    const ways = new Map<PhaseName, string[]>()
    for (const [event, next] of Object.entries(phases[name].on)) {
      if (next === name) continue
      ways.set(next, [...(ways.get(next) ?? []), event])
    }
    for (const [next, events] of ways) lines.push(`  ${name} --> ${next}: ${events.join(' / ')}`)
    if (ways.size === 0) lines.push(`  ${name} --> [*]`)
  }
  return lines.join('\n')
}

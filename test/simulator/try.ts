import { chances } from './chance.ts'
import { drawFaults, noFaults } from './faults.ts'
import { simulate } from './simulation.ts'
const [from = 1, count = 1, mode = 'faults'] = process.argv.slice(2)
for (let seed = Number(from); seed < Number(from) + Number(count); seed++) {
  const t = performance.now()
  const faults = mode === 'none' ? noFaults : drawFaults(chances(seed)('faults'))
  const { entries, ...outcome } = await simulate({
    seed,
    faults,
    hosts: 4,
    guests: 8,
    coordinators: 2,
    faultySeconds: 40,
  })
  console.log(
    seed,
    JSON.stringify({ ...outcome, violation: outcome.violation?.message }),
    Math.round(performance.now() - t),
    'ms',
  )
  if (process.env.DUMP)
    for (const e of entries.slice(-80))
      console.log(e.position, e.storedAt, e.subject, JSON.stringify(e.message).slice(0, 300))
}
process.exit()

import { planOf } from './plan.ts'
import type { Wish } from './plan.ts'
import { simulate } from './simulation.ts'
import type { Outcome } from './simulation.ts'

/** One processor's share of the runs: takes a wish, gives what came of it. */
export type Report = {
  readonly wish: Wish
  readonly outcome: Omit<Outcome, 'ever' | 'violation'>
  readonly broken?: string
}

process.on('message', (wish: Wish) => {
  void run(wish)
})

async function run(wish: Wish): Promise<void> {
  const { ever: _, violation, ...outcome } = await simulate(planOf(wish))
  const report: Report = {
    wish,
    outcome,
    ...(violation === undefined ? {} : { broken: violation.invariant }),
  }
  process.send?.(report)
}

import { faultsOf, planOf } from './plan.ts'
import type { Wish } from './plan.ts'
import { simulate } from './simulation.ts'
import type { Outcome } from './simulation.ts'

export type Shrunk = { readonly wish: Wish; readonly outcome: Outcome }

/** Makes a failing run smaller as long as it breaks the same promise: fewer faults, guests, hosts and coordinators, less time. */
export async function shrink(wish: Wish, invariant: string): Promise<Shrunk> {
  let best: Shrunk = { wish, outcome: await simulate(planOf(wish)) }
  const tries = async (smaller: Wish): Promise<boolean> => {
    const outcome = await simulate(planOf(smaller))
    if (outcome.violation?.invariant !== invariant) return false
    best = { wish: smaller, outcome }
    return true
  }
  for (const fault of faultsOf(wish)) {
    const { wish: now } = best
    await tries({ ...now, only: faultsOf(now).filter((name) => name !== fault) })
  }
  for (const guests of [1, 2, 4]) if (await tries({ ...best.wish, guests })) break
  for (const hosts of [2, 3]) if (await tries({ ...best.wish, hosts })) break
  await tries({ ...best.wish, coordinators: 1 })
  for (const seconds of [5, 10, 20]) if (await tries({ ...best.wish, seconds })) break
  return best
}

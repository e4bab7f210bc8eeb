import { defaultRules } from '@ferry/coordinator/decide/world'
import type { Rules } from '@ferry/coordinator/decide/world'
import { chances } from './chance.ts'
import { drawFaults, faultNames, noFaults } from './faults.ts'
import type { Faults } from './faults.ts'
import type { Plan } from './simulation.ts'

/** What a seed alone means, and what was changed about it to make a failing run smaller. */
export type Wish = {
  readonly seed: number
  readonly hosts?: number
  readonly guests?: number
  readonly coordinators?: number
  readonly seconds?: number
  /** Only these faults; absent: all that the seed draws. */
  readonly only?: readonly (keyof Faults)[]
}

export function planOf({
  seed,
  hosts = 4,
  guests = 20,
  coordinators = 2,
  seconds = 60,
  only,
}: Wish): Plan {
  const drawn = drawFaults(chances(seed)('faults'))
  const faults: Record<keyof Faults, number> = { ...noFaults }
  for (const name of only ?? faultNames) faults[name] = drawn[name]
  const rules = chances(seed)('rules').happens(0.5) ? defaultRules : impatient
  return { seed, faults, rules, hosts, guests, coordinators, faultySeconds: seconds }
}

/** Every limit is reached while there are faults. */
const impatient: Rules = {
  limits: defaultRules.limits,
  phaseLimitsMs: { beginning: 5000, preparing: 5000, switching: 5000 },
  settleMs: 8000,
  doubtMs: 5000,
  listenMs: defaultRules.listenMs,
}

/** The faults that a wish really has. */
export const faultsOf = (wish: Wish): (keyof Faults)[] => {
  const { faults } = planOf(wish)
  return faultNames.filter((name) => faults[name] > 0)
}

/** How to see it again. */
export function commandFor({ seed, hosts, guests, coordinators, seconds, only }: Wish): string {
  const options = Object.entries({ hosts, guests, coordinators, seconds })
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => ` --${name} ${value}`)
  const faults = only === undefined ? '' : ` --only ${only.length === 0 ? 'none' : only.join()}`
  return `npm run sim -- --seed ${seed} --runs 1${options.join('')}${faults}`
}

import { pathToFileURL } from 'node:url'
import { toldNotHere } from './not-here.ts'

/** One test file, run to its end; tells `run.ts` how many of its tests passed, how many did not, and what is not for here. */
export type Tally = {
  readonly passed: number
  readonly failed: number
  readonly notHere: readonly string[]
}

type Suite = () => Promise<[errors: string | true, ran: number, skipped: number, total: number]>
type Uvu = { UVU_DEFER?: number; UVU_INDEX?: number; UVU_QUEUE?: [string, ...Suite[]][] }

const file = process.argv[2] ?? ''
const uvu = globalThis as Uvu
Object.assign(globalThis, { UVU_DEFER: 1, UVU_INDEX: 0, UVU_QUEUE: [[file]] })
await import(pathToFileURL(file).href)

const [, ...suites] = uvu.UVU_QUEUE?.[0] ?? [file]
let passed = 0
let failed = 0
for (const run of suites) {
  const [errors, ran, skipped, total] = await run()
  passed += ran
  failed += total - ran + skipped
  if (typeof errors === 'string') process.stdout.write(`${errors}\n`)
  else if (ran < total)
    process.stdout.write('\n  a hook threw, so the tests behind it did not run\n')
  if (skipped > 0) process.stdout.write(`\n  ${skipped} skipped: is a .only or .skip left over?\n`)
}
process.send?.({ passed, failed, notHere: toldNotHere() } satisfies Tally)
process.disconnect?.()

import { fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import type { Wish } from './plan.ts'
import type { Report } from './worker.ts'

/** Lets every processor simulate, one run at a time, until there are no more wishes or somebody has seen enough. */
export async function simulateAll(
  wishes: Iterator<Wish>,
  seen: (report: Report) => 'go on' | 'enough',
  program = join(import.meta.dirname, 'worker.mjs'),
): Promise<void> {
  let isEnough = false
  const worker = () =>
    new Promise<void>((resolve, reject) => {
      const child = fork(program, [], { execArgv: [] })
      const next = () => {
        const wish = isEnough ? undefined : wishes.next()
        if (wish === undefined || wish.done === true) return child.disconnect()
        child.send(wish.value)
      }
      child.on('message', (report: Report) => {
        if (seen(report) === 'enough') isEnough = true
        next()
      })
      child.once('error', reject)
      child.once('exit', (code) =>
        code === 0 ? resolve() : reject(new Error(`a simulating process ended with ${code}`)),
      )
      next()
    })
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
}

/** Seeds that once failed, from `seeds.txt`: a number and, behind it, what it found. */
export function knownSeeds(text: string): number[] {
  return text
    .split('\n')
    .filter((line) => /^\d/.test(line))
    .map((line) => Number.parseInt(line, 10))
}

import { nameOf } from './cells.ts'
import type { Row } from './matrix.ts'

/** One cell as a line. */
export function inWords({ cell, result }: Row): string {
  const { outcome, downtimeMs, nextStep, nextStepMs, isHit, broken } = result
  const parts = [
    outcome,
    `downtime ${milliseconds(downtimeMs)}`,
    nextStep === undefined ? 'no step needed' : `${nextStep} after ${milliseconds(nextStepMs)}`,
    ...(isHit ? [] : ['the blow came too late']),
    ...broken.map((what) => `BROKEN: ${what}`),
  ]
  return `${nameOf(cell)}: ${parts.join(' · ')}`
}

const milliseconds = (ms: number | undefined): string => (ms === undefined ? '–' : `${Math.round(ms)} ms`)

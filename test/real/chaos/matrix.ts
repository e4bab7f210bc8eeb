import { openLab } from '../lab.ts'
import type { Lab, LabOptions } from '../lab.ts'
import { matrix, nameOf } from './cells.ts'
import type { Cell } from './cells.ts'
import { runCell } from './run.ts'
import type { Result, RunOptions } from './run.ts'

export type Row = { readonly cell: Cell; readonly result: Result }

/** The cells in whose names all of the words are. */
export const cellsWith = (...words: string[]): Cell[] =>
  matrix.filter((cell) => words.every((word) => nameOf(cell).includes(word)))

const LAB: LabOptions = {
  hosts: ['rack1', 'rack2'],
  driver: 'qemu',
  isCuttable: true,
  coordinators: 2,
}

/** How often a cell is run when its phase was over before the blow fell. */
const MOST_TRIES = 3

/** Runs cells one after the other in one lab; after one that broke a rule, the next gets a new lab. */
export async function runCells(
  cells: readonly Cell[],
  told: (row: Row) => void,
  options: RunOptions & { readonly coordinators?: number } = {},
): Promise<Row[]> {
  const { coordinators = 2 } = options
  const rows: Row[] = []
  let lab: Lab | undefined
  let number = 0
  const runOnce = async (cell: Cell): Promise<Result> => {
    lab ??= await openLab({ ...LAB, coordinators })
    number += 1
    const result = await runCell(lab, cell, String(number), options).catch(
      (error: unknown): Result => ({ outcome: '–', isHit: true, broken: [String(error)] }),
    )
    if (result.broken.length > 0) {
      await showLogs(lab)
      await lab.close()
      lab = undefined
    }
    return result
  }
  try {
    for (const cell of cells) {
      let result = await runOnce(cell)
      for (let tries = 1; tries < MOST_TRIES && !result.isHit; tries++) result = await runOnce(cell)
      const row = { cell, result }
      rows.push(row)
      told(row)
    }
  } finally {
    await lab?.close()
  }
  return rows
}

const SHOWN_LINES = 40

async function showLogs(lab: Lab): Promise<void> {
  const processes = [...lab.coordinators.values(), lab.agent('rack1'), lab.agent('rack2')]
  for (const { log } of processes)
    console.log((await log()).trimEnd().split('\n').slice(-SHOWN_LINES).join('\n'))
}

import { parseArgs } from 'node:util'
import { cellsWith, runCells } from './matrix.ts'
import { inWords } from './report.ts'
const { values } = parseArgs({ options: { only: { type: 'string', multiple: true, default: [] } } })
await runCells(cellsWith(...values.only), (row) => console.log(inWords(row)))

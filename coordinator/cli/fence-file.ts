import { readFile } from 'node:fs/promises'
import { parse } from '@ferry/schemas/parse'
import { systemClock } from '@ferry/events/clock'
import { FenceFile, fenceCommands, noFences } from '../fences.ts'
import type { Fences } from '../fences.ts'

export const FENCE_HELP =
  'how hosts are turned off: a JSON file with a fence command for each; keep it from other eyes, it holds passwords'

export const fencesFrom = async (path: string | undefined): Promise<Fences> =>
  path === undefined
    ? noFences
    : fenceCommands(parse(FenceFile, JSON.parse(await readFile(path, 'utf8')), path), systemClock)

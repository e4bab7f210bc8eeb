import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { machine } from '../bench/machine.ts'
import { markdown } from '../bench/report.ts'

/**
 * What the suites on hosts of their own have shown, and on which code: such a suite takes minutes, and not every change is
 * followed by all of them. A suite's line is written anew each time all of it has passed, and kept when it has not.
 */
export type Passed = {
  readonly suite: string
  readonly tests: number
  readonly seconds: number
  /** The machine's, before the suite began. */
  readonly load: number
}

const FILE = join(import.meta.dirname, 'RESULTS.md')
const HEAD = ['suite', 'tests', 'seconds', 'load before', 'code', 'when and on what']

/** @returns the page with this line in it. */
export function withLine(page: string, line: readonly string[]): string {
  const kept = page
    .split('\n')
    .filter((each) => each.startsWith('| ') && !/^\| (suite|---)/.test(each))
    .map((each) => each.slice(2, -2).split(' | '))
    .filter(([suite]) => suite !== line[0])
  const lines = [...kept, line].toSorted(([one = ''], [other = '']) => (one < other ? -1 : 1))
  return [
    '# What the suites on hosts of their own have shown',
    '',
    'Written by `npm run test:hosts`, a line whenever all of a suite has passed. The code is the commit that it ran on, with `+` where something',
    'was changed and not committed. Xen hosts are emulated here: their seconds say nothing about hosts of iron.',
    '',
    ...markdown(HEAD, lines),
    '',
  ].join('\n')
}

export async function keep({ suite, tests, seconds, load }: Passed): Promise<void> {
  const page = await readFile(FILE, 'utf8').catch(() => '')
  const [commit, changed] = await Promise.all([
    git('rev-parse', '--short', 'HEAD'),
    git('status', '--porcelain', '--', ':/', ':(exclude,top)test/hosts/RESULTS.md'),
  ])
  const code = changed === '' ? commit : `${commit}+`
  const figures = [String(tests), seconds.toFixed(0), load.toFixed(1)]
  await writeFile(FILE, withLine(page, [suite, ...figures, code, await machine()]))
}

const git = async (...words: string[]): Promise<string> =>
  (await promisify(execFile)('git', words, { cwd: import.meta.dirname })).stdout.trim()

import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { withLine } from '../hosts/results.ts'

const test = suite('what the suites on hosts of their own have shown')

const linesOf = (page: string) => page.split('\n').filter((line) => line.startsWith('| x'))

test('a suite has one line, its last, and they stand in the order of their names', () => {
  let page = ''
  for (const [name, seconds] of [
    ['xen-lost', '9'],
    ['xen-driver', '7'],
    ['xen-lost', '8'],
  ] as const)
    page = withLine(page, [name, '1', seconds, '0.2', 'abc', '2026-11-26 · here'])
  assert.equal(linesOf(page), [
    '| xen-driver | 1 | 7 | 0.2 | abc | 2026-11-26 · here |',
    '| xen-lost | 1 | 8 | 0.2 | abc | 2026-11-26 · here |',
  ])
})

test.run()

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { withSection } from './page.ts'

test('a section takes the place of the one with its heading, and the others stay', () => {
  const page = '# One\n\nold\n\n## Part\n\n# Two\n\nstays\n'
  assert.is(withSection(page, '# One\n\nnew\n'), '# One\n\nnew\n\n# Two\n\nstays\n')
})

test('a section that is new comes last', () => {
  assert.is(withSection('', '# One\n'), '# One\n')
  assert.is(withSection('# One\n', '# Two\n\ntext'), '# One\n\n# Two\n\ntext\n')
})

test.run()

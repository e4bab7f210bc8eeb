import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { mutations } from './mutations.ts'

const test = suite('a deliberate bug')

const ROOT = join(import.meta.dirname, '..', '..')

test('is about a line that stands once in its file, and changes it', async () => {
  for (const { bug, file, from, to } of mutations) {
    const found = (await readFile(join(ROOT, file), 'utf8')).split(from).length - 1
    assert.is(found, 1, `${bug}: \`${from}\` stands ${found} times in ${file}`)
    assert.is.not(from, to, bug)
  }
})

test.run()

import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { published } from '@ferry/events/asyncapi/document'
import { templates } from '@ferry/events/subjects'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const folder = join(import.meta.dirname, '..', '..', 'schemas', 'published')

test('the published schemas are those of the program (`pnpm schemas` writes them)', async () => {
  const files = published()
  assert.equal((await readdir(folder)).toSorted(), Object.keys(files).toSorted())
  for (const [name, content] of Object.entries(files))
    assert.is(
      await readFile(join(folder, name), 'utf8'),
      `${JSON.stringify(content, null, 2)}\n`,
      name,
    )
})

test('the AsyncAPI document has every subject, and refers to nothing that is not there', () => {
  const files = published()
  const document = JSON.stringify(files['asyncapi.json'])
  for (const template of Object.values(templates))
    assert.ok(document.includes(`"${template}"`), template)
  for (const [, file = ''] of document.matchAll(/"\.\/([^"]+)"/g)) assert.ok(file in files, file)
  for (const [, path = ''] of document.matchAll(/"#\/([^"]+)"/g)) {
    let here: unknown = files['asyncapi.json']
    for (const step of path.split('/')) here = (here as Record<string, unknown>)[step]
    assert.ok(here !== undefined, path)
  }
})

test.run()

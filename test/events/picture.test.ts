import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { picture } from '@ferry/events/picture'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const README = join(import.meta.dirname, '..', '..', 'README.md')
const BLOCK = /```mermaid\n(stateDiagram-v2[\s\S]*?)\n```/

/** After a change that is meant: `FERRY_WRITE_GOLDEN=1 npm test -- picture`. */
test('the picture in the README is the phase table', async () => {
  const readme = await readFile(README, 'utf8')
  if (process.env.FERRY_WRITE_GOLDEN !== undefined)
    await writeFile(README, readme.replace(BLOCK, `\`\`\`mermaid\n${picture()}\n\`\`\``))
  const [, shown] = BLOCK.exec(await readFile(README, 'utf8')) ?? []
  assert.is(shown, picture())
})

test.run()

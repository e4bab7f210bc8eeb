import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { hostKey } from '@ferry/host-agent/keys'
import { DirectoryInUse, lockDirectory } from '@ferry/host-agent/lock'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

const test = suite("a host's key")
let folder = ''
test.before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ferry-keys-'))
})
test.after(async () => rm(folder, { recursive: true }))

const clear = Buffer.from('the key of a transfer')

test('opens what was sealed for it, also after a restart', async () => {
  const [one, two] = [await hostKey(join(folder, 'a')), await hostKey(join(folder, 'b'))]
  const sealed = one.seal(clear, two.public)
  assert.not.match(sealed, clear.toString('base64').slice(0, 8))
  const again = await hostKey(join(folder, 'b'))
  assert.is(again.public, two.public)
  assert.equal(Buffer.from(again.open(sealed, one.public) ?? []), clear)
})

test('does not open what was sealed for another, by another, or was changed on the way', async () => {
  const [one, two, three] = [
    await hostKey(join(folder, 'a')),
    await hostKey(join(folder, 'b')),
    await hostKey(join(folder, 'c')),
  ]
  const sealed = one.seal(clear, two.public)
  assert.is(three.open(sealed, one.public), undefined)
  assert.is(two.open(sealed, three.public), undefined)
  const bytes = Buffer.from(sealed, 'base64')
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1
  assert.is(two.open(bytes.toString('base64'), one.public), undefined)
})

test('is made anew where a power cut has left an empty file', async () => {
  await writeFile(join(folder, 'cut'), '')
  const made = await hostKey(join(folder, 'cut'))
  assert.is((await hostKey(join(folder, 'cut'))).public, made.public)
  assert.is((await stat(join(folder, 'cut'))).mode & 0o777, 0o600)
})

test('is one, though two make it at once, and leaves nothing else behind', async () => {
  const alone = join(folder, 'alone')
  const [one, two] = await Promise.all([hostKey(join(alone, 'key')), hostKey(join(alone, 'key'))])
  assert.is(one.public, two.public)
  assert.equal(await readdir(alone), ['key'])
})

test('stands in a file that only the agent may read', async () => {
  await hostKey(join(folder, 'a'))
  assert.is((await stat(join(folder, 'a'))).mode & 0o777, 0o600)
})

test('two agents do not share one state directory', async () => {
  const unlock = await lockDirectory(folder)
  try {
    await lockDirectory(folder)
    assert.unreachable('a second agent took it')
  } catch (error) {
    assert.instance(error, DirectoryInUse)
  }
  await unlock()
  await (
    await lockDirectory(folder)
  )()
})

test.run()

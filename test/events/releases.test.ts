import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { emptyFleet, fingerprint, follow, replay } from '@ferry/events/fleet'
import { upgrades } from '@ferry/schemas/upgrade'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { KEPT, keptLog, outcomeOf, requiredFields } from '../releases/kept.ts'
import { asyncly } from './stories.ts'

/** What earlier releases wrote is read by this one, and what this one writes by them. */
const test = suite('what is kept of a release')

const kept = (release: string, file: string) => readFile(join(KEPT, release, file), 'utf8')

for (const release of await readdir(KEPT)) {
  test(`${release}: its log has the outcome that it had`, async () => {
    assert.fixture(outcomeOf(await keptLog(release)), await kept(release, 'outcome.txt'))
  })

  test(`${release}: its log is known to the last message, and one state to everybody (I8)`, async () => {
    const entries = await keptLog(release)
    const fleet = emptyFleet()
    for (const entry of entries) {
      assert.is.not(entry.message.is, 'unknown', `#${entry.position}`)
      follow(fleet, entry)
    }
    assert.is(fingerprint(fleet), fingerprint(await replay(asyncly(entries))))
  })

  test(`${release}: no message needs less or more than it did, or it has another version`, async () => {
    const now = new Map(requiredFields().map(split))
    for (const [message, fields] of (await kept(release, 'required.txt'))
      .trimEnd()
      .split('\n')
      .map(split)) {
      const [name = '', version = ''] = message.split('.v')
      // An older reader takes what lacks a field for void, and this one what has never had it.
      if (now.has(message)) assert.equal(now.get(message), fields, message)
      else assert.type(upgrades[name]?.[Number(version)], 'function', `no step up from ${message}`)
    }
  })
}

function split(line: string): readonly [message: string, fields: string[]] {
  const [message = '', fields = ''] = line.split(': ')
  return [message, fields.split(' ').toSorted()]
}

test.run()

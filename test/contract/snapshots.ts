import { randomBytes } from 'node:crypto'
import type { Snapshots } from '@ferry/events/snapshots'
import { KEPT } from '@ferry/events/snapshots'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

/** The promises of Snapshots. Each test opens a place of its own. */
export type OpenSnapshots = {
  readonly snapshots: Snapshots
  /** As another process sees the same. */
  readonly other: Snapshots
  /** Writes over one of the values that they are made of. */
  readonly spoil: (key: string, value: string) => Promise<void>
  readonly close: () => Promise<void>
}

export function snapshotsContract(name: string, open: () => Promise<OpenSnapshots>): void {
  const test = suite(`snapshots ${name}`)
  let opened: OpenSnapshots
  test.before.each(async () => {
    opened = await open()
  })
  test.after.each(async () => opened.close())

  test('where none was written there is none', async () => {
    assert.equal(await opened.snapshots.list(), [])
  })

  test('what was written is read, whole, by anybody', async () => {
    const { snapshots, other } = opened
    // Chance cannot be compressed: this takes several parts.
    const snapshot = new Uint8Array(randomBytes(2_000_000))
    await snapshots.write(snapshot)
    const [name] = await other.list()
    assert.equal(Buffer.compare(await other.read(name ?? ''), snapshot), 0)
  })

  test('the last few are kept, the one that was written last first', async () => {
    const { snapshots, other } = opened
    for (let number = 1; number <= KEPT + 2; number++)
      await (number % 2 === 0 ? snapshots : other).write(text(`state ${number}`))
    const found = await Promise.all((await snapshots.list()).map((name) => snapshots.read(name)))
    assert.equal(
      found.map((bytes) => Buffer.from(bytes).toString()),
      Array.from({ length: KEPT }, (_, at) => `state ${KEPT + 2 - at}`),
    )
  })

  test('a shorter one in the place of a longer one is whole', async () => {
    const { snapshots } = opened
    await snapshots.write(new Uint8Array(randomBytes(1_500_000)))
    for (let number = 0; number < KEPT; number++) await snapshots.write(text('short'))
    for (const name of await snapshots.list())
      assert.is(Buffer.from(await snapshots.read(name)).toString(), 'short')
  })

  test('one with a broken part cannot be read, the others can', async () => {
    const { snapshots, spoil } = opened
    await snapshots.write(text('old'))
    await snapshots.write(text('new'))
    const [newest = '', older = ''] = await snapshots.list()
    await spoil(`snapshot.${newest}.part.0`, 'bm90IHppcHBlZA==')
    assert.not(await snapshots.read(newest).catch(() => undefined))
    assert.is(Buffer.from(await snapshots.read(older)).toString(), 'old')
  })

  test.run()
}

const text = (words: string) => new TextEncoder().encode(words)

import { systemClock, within } from '@ferry/events/clock'
import type { Register, Registers } from '@ferry/events/registers'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

/** The promises of Registers. Each test has keys of its own, so one server serves them all. */
export type OpenRegisters = {
  readonly registers: Registers
  /** A second holder, as another process would be. */
  readonly other: Registers
  readonly close: () => Promise<void>
}

export function registersContract(name: string, open: () => Promise<OpenRegisters>): void {
  const test = suite(`registers ${name}`)
  let opened: OpenRegisters
  test.before(async () => {
    opened = await open()
  })
  test.after(async () => opened.close())

  test('what was never written is not there', async () => {
    assert.is(await opened.registers.read(unique()), undefined)
  })

  test('a write stands if nobody was faster', async () => {
    const { registers, other } = opened
    const key = unique()
    const revision = await registers.write(key, 'one', 0)
    assert.ok(revision !== undefined && revision > 0)
    assert.is(await other.write(key, 'two', 0), undefined)
    assert.is((await other.read(key))?.value, 'one')
    const next = await other.write(key, 'three', revision ?? 0)
    assert.ok(next !== undefined && next > (revision ?? 0))
    assert.is(await registers.write(key, 'four', revision ?? 0), undefined)
    const register = await registers.read(key)
    assert.is(register?.value, 'three')
    assert.is(register?.revision, next)
    assert.ok(Math.abs((register?.writtenAt ?? 0) - Date.now()) < 60_000)
  })

  test('of two who write at once one wins', async () => {
    const { registers, other } = opened
    const key = unique()
    for (let round = 0; round < 50; round++) {
      const revision = (await registers.read(key))?.revision ?? 0
      const written = await Promise.all([
        registers.write(key, 'one', revision),
        other.write(key, 'two', revision),
      ])
      assert.is(written.filter((each) => each !== undefined).length, 1, `round ${round}`)
    }
  })

  test('whoever watches gets what stands there, and every change', async () => {
    const { registers, other } = opened
    const prefix = unique()
    const stop = new AbortController()
    await registers.put(`${prefix}.a`, '1')
    const seen: Register[] = []
    const watching = (async () => {
      for await (const register of other.watch(prefix, stop.signal)) {
        seen.push(register)
        if (seen.length === 1) await registers.put(`${prefix}.b`, '2')
        if (seen.length === 2) await registers.put(`${prefix}.a`, '3')
        if (seen.length === 3) stop.abort()
      }
    })()
    await within(systemClock, 20_000, 'three values', watching)
    assert.equal(
      seen.map(({ key, value }) => `${key.slice(prefix.length)} ${value}`),
      ['.a 1', '.b 2', '.a 3'],
    )
  })

  test.run()
}

let counter = 0
const unique = () => `test${process.pid}-${Date.now().toString(36)}-${(counter += 1)}`

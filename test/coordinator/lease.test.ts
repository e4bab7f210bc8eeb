import { systemClock } from '@ferry/events/clock'
import { memoryRegisters } from '@ferry/events/log/in-memory-registers'
import type { Registers } from '@ferry/events/registers'
import { holdLease } from '@ferry/coordinator/lease'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../until.ts'

const test = suite('the lease')

const quick = { renewMs: 20, leaseMs: 200 }

/** A coordinator that holds the lease when it can. */
function holder(me: string, registers: Registers, lease = quick) {
  const stop = new AbortController()
  const epochs: number[] = []
  let leads = false
  const ended = holdLease({
    me,
    registers,
    clock: systemClock,
    lease,
    signal: stop.signal,
    gained: (epoch) => {
      leads = true
      epochs.push(epoch)
    },
    lost: () => {
      leads = false
    },
  })
  return {
    epochs,
    leads: () => leads,
    stop: async () => {
      stop.abort()
      await ended
    },
  }
}

/** Registers that can stop answering one holder, as a network does. */
function cuttable(registers: Registers) {
  let isCut = false
  const reach = <T>(ask: () => Promise<T>): Promise<T> => (isCut ? new Promise(() => {}) : ask())
  const cut: Registers = {
    ...registers,
    read: (key) => reach(() => registers.read(key)),
    write: (...args) => reach(() => registers.write(...args)),
  }
  return { registers: cut, cut: (is: boolean) => (isCut = is) }
}

test('one leads; when it leaves in good order the next one does at once, with a later epoch', async () => {
  const registers = memoryRegisters(systemClock)
  const first = holder('c1', registers)
  await until('c1 to lead', first.leads)
  const second = holder('c2', registers)
  await systemClock.sleep(quick.leaseMs * 2)
  assert.ok(first.leads() && !second.leads())
  await first.stop()
  await until('c2 to lead', second.leads)
  assert.equal([first.epochs, second.epochs], [[1], [2]])
  await second.stop()
})

test('two of one name are two all the same', async () => {
  const registers = memoryRegisters(systemClock)
  const first = holder('c1', registers)
  await until('one to lead', first.leads)
  const second = holder('c1', registers)
  await systemClock.sleep(quick.leaseMs * 2)
  assert.ok(first.leads() && !second.leads())
  await first.stop()
  await until('the other one to lead', second.leads)
  assert.equal([first.epochs, second.epochs], [[1], [2]])
  await second.stop()
})

test('those that wait hear of it at once, however seldom the lease is renewed', async () => {
  const registers = memoryRegisters(systemClock)
  const seldom = { renewMs: 60_000, leaseMs: 300_000 }
  const first = holder('c1', registers, seldom)
  await until('c1 to lead', first.leads)
  const second = holder('c2', registers, seldom)
  await first.stop()
  await until('c2 to lead', second.leads)
  await second.stop()
})

test('one that is cut off loses it to another one, and does not get it back while that one lives', async () => {
  const memory = memoryRegisters(systemClock)
  const { registers, cut } = cuttable(memory)
  const first = holder('c1', registers)
  await until('c1 to lead', first.leads)
  const second = holder('c2', memory)
  cut(true)
  await until('c2 to lead', second.leads)
  await until('c1 to know that it does not', () => !first.leads())
  cut(false)
  await systemClock.sleep(quick.leaseMs * 2)
  assert.ok(second.leads() && !first.leads())
  assert.equal([first.epochs, second.epochs], [[1], [2]])
  await Promise.all([first.stop(), second.stop()])
})

test.run()

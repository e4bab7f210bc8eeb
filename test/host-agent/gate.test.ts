import { systemClock } from '@ferry/events/clock'
import type { Log } from '@ferry/events/log'
import { memoryLog } from '@ferry/events/log/in-memory'
import { openGate } from '@ferry/host-agent/gate'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { cancelled } from '../events/examples.ts'
import { failureOf } from '../failure.ts'
import { until } from '../until.ts'

/** Rule 5: a guest is kept paused only while the log answers. */
const test = suite('the gate')

const contested = { target: 'rack2', migration: 'm1', attempt: 1 }

/** A log that can fall silent: what is asked of it then is never answered. */
function mortalLog() {
  const log = memoryLog(systemClock)
  let isSilent = false
  let asked = 0
  const mortal: Log = {
    ...log,
    next: (...args) => {
      asked += 1
      return isSilent ? new Promise(() => {}) : log.next(...args)
    },
  }
  return { log: mortal, fallSilent: (silent: boolean) => (isSilent = silent), asked: () => asked }
}

test('opens at once when the log was heard just now', async () => {
  const { log, asked } = mortalLog()
  const gate = openGate(log, systemClock, contested)
  await until('the log to be asked', () => asked() >= 2)
  const before = asked()
  await gate.pass()
  assert.ok(asked() <= before + 1)
  gate.close()
})

test('stays shut when the log is silent, and says for how long; the guest did not wait long for that', async () => {
  const { log, fallSilent, asked } = mortalLog()
  const gate = openGate(log, systemClock, contested)
  await until('the log to be asked', () => asked() >= 1)
  fallSilent(true)
  // Nobody answers any more, so what was heard gets old.
  await systemClock.sleep(500)
  const began = systemClock.elapsed()
  const failure = await failureOf(gate.pass())
  assert.is(failure.type, 'LogSilent')
  assert.ok(failure.type === 'LogSilent' && failure.silentForMs >= 450)
  assert.ok(systemClock.elapsed() - began < 2000)
  gate.close()
})

test('opens when the log answers at the last moment', async () => {
  const { log, fallSilent, asked } = mortalLog()
  fallSilent(true)
  const gate = openGate(log, systemClock, contested)
  await until('the log to be asked', () => asked() >= 1)
  await systemClock.sleep(200)
  fallSilent(false)
  await gate.pass()
  gate.close()
})

test('stays shut when the verdict has been given', async () => {
  const { log } = mortalLog()
  await log.append(cancelled())
  const gate = openGate(log, systemClock, contested)
  assert.is((await failureOf(gate.pass())).type, 'VerdictGiven')
  gate.close()
})

test.run()

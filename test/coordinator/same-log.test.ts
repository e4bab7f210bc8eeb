import { sameLog } from '@ferry/coordinator/same-log'
import { systemClock } from '@ferry/events/clock'
import { memoryLog } from '@ferry/events/log/in-memory'
import { LogLostTail } from '@ferry/events/log/witness'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { hostReported } from '../events/examples.ts'
import { silent } from '../fleet-in-process.ts'
import { until } from '../until.ts'

const SOON_MS = 10_000

/** A log with one event, whose server can come back at any moment. */
async function opened() {
  const over = new AbortController()
  const returned = new Set<() => void>()
  const onReturn = (act: () => void) => {
    returned.add(act)
    return () => void returned.delete(act)
  }
  const log = { ...memoryLog(systemClock), onReturn }
  await log.append(hostReported('rack1'))
  const last = await log.last('ferry.host.rack1')
  assert.ok(last)
  const same = sameLog({ log, clock: systemClock, say: silent, signal: over.signal })
  const comeBack = () => returned.forEach((act) => act())
  const following = async (from: typeof last) => {
    for await (const _ of same.follow(from));
  }
  return { last, same, comeBack, following, over }
}

test('a log that came back while it was read for the first time is compared before it is followed', async () => {
  const { last, same, comeBack, following, over } = await opened()
  comeBack()
  assert.not.ok(same.isSame())
  const whole = following(last)
  try {
    await until('it to be compared', async () => same.isSame(), SOON_MS)
    comeBack()
    assert.not.ok(same.isSame())
    await until('it to be compared again', async () => same.isSame(), SOON_MS)
  } finally {
    over.abort()
    await whole
  }
})

test('and one that has lost meanwhile what was read is not followed', async () => {
  const { last, comeBack, following, over } = await opened()
  comeBack()
  const lost = await following({ ...last, storedAt: last.storedAt + 1 }).catch(
    (error: unknown) => error,
  )
  over.abort()
  assert.instance(lost, LogLostTail)
})

test.run()

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock as clock } from '@ferry/events/clock'
import { hostKey } from '@ferry/host-agent/keys'
import type { HostKey } from '@ferry/host-agent/keys'
import { rehearse } from '@ferry/host-agent/mover/rehearse'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../until.ts'

const test = suite("a mover's rehearsal")

let folder = ''
let key: HostKey
test.before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ferry-rehearsal-'))
  key = await hostKey(join(folder, 'host.key'))
})
test.after(async () => rm(folder, { recursive: true }))

const nothingIsOpen = () =>
  until(
    'its port and its streams to be closed',
    () => !process.getActiveResourcesInfo().some((resource) => resource.startsWith('TCP')),
  )

test('moves a guest from itself to itself, and leaves nothing open', async () => {
  await rehearse({ key, clock, signal: new AbortController().signal })
  await nothingIsOpen()
})

test('is broken off at any moment in which something real is to be done', async () => {
  for (const turns of [0, 1, 3, 10, 30, 100]) {
    const order = new AbortController()
    const rehearsing = rehearse({ key, clock, signal: order.signal }).catch(() => {})
    for (let turn = 0; turn < turns; turn++) await new Promise(setImmediate)
    order.abort()
    await rehearsing
    await nothingIsOpen()
  }
})

test('goes wrong with a key that opens nothing', async () => {
  const other: HostKey = { ...key, open: () => undefined }
  const problem = await rehearse({ key: other, clock, signal: AbortSignal.timeout(20_000) }).then(
    () => undefined,
    String,
  )
  assert.match(problem ?? '', 'PrepareRefused')
})

test.run()

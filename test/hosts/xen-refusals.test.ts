import type { Landing } from '@ferry/host-agent/driver'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { failureOf } from '../failure.ts'
import { openWire, performOrder } from '../contract/wire.ts'
import { openXenPair } from '../lab/xen-pair.ts'
import type { XenPair } from '../lab/xen-pair.ts'
import { LOOK_EVERY_MS, SHARED_DISK } from '../lab/xen-hosts.ts'
import { PATIENCE_MS } from '../lab/xen-seats.ts'
import { until } from '../until.ts'

/** What a host says no to, in words that say why; and what becomes of a guest that somebody else lays hands on by xl. */
const test = suite('refusals of Xen, and the hands of others')

const vm = 'web1'
let pair: XenPair

test.before(async () => {
  pair = await openXenPair('xl')
  await pair.start(vm, 'small')
})
test.after(async () => pair.close())

/** What becomes of a copy in whose first round somebody does this to the guest. */
async function failureWith(...hand: readonly string[]) {
  await pair.target.prepare(await pair.landing(vm))
  let laid: Promise<string> | undefined
  const round = () => {
    laid ??= pair.hosts.run('source', 'xl', ...hand)
    laid.catch(() => {})
  }
  const failure = await failureOf(pair.copy(vm, { round }))
  await laid
  await pair.target.clear(vm)
  return failure
}

/** What the target would be asked to take, with something else in it. */
const prepare = async (landing: Landing, change: (definition: { needs: object }) => object) => {
  const definition = JSON.parse(landing.definition) as { needs: object }
  return pair.target.prepare({ ...landing, definition: JSON.stringify(change(definition)) })
}

test('what a target lacks, it names', async () => {
  const landing = await pair.landing(vm)
  const disks = ['/dev/vdb', '/dev/absent']
  assert.equal(await prepare(landing, (definition) => ({ ...definition, disks })), {
    type: 'DiskMissing',
    path: '/dev/absent',
  })
  const machine = 'arm'
  assert.equal(
    await prepare(landing, ({ needs, ...its }) => ({ ...its, needs: { ...needs, machine } })),
    { type: 'MachineUnsupported', machine },
  )
  const memoryMiB = 4096
  const refusal = await prepare(landing, (definition) => ({ ...definition, memoryMiB }))
  assert.ok(refusal !== undefined && 'type' in refusal && refusal.type === 'NotEnoughMemory')
  assert.is(refusal.neededBytes, memoryMiB * 1024 ** 2)
  assert.ok(refusal.freeBytes > 0 && refusal.freeBytes < refusal.neededBytes)
  assert.equal(await pair.states(vm), ['running', undefined])
})

test('a host that has the guest takes no second one', async () => {
  assert.equal(await pair.source.prepare(await pair.landing(vm)), {
    type: 'GuestAlreadyHere',
    vm,
    state: 'running',
  })
})

test('a guest that its host would start by itself does not leave', async () => {
  const file = '/etc/xen/auto/anything'
  await pair.hosts.shell('source', `mkdir -p /etc/xen/auto; echo 'name = "${vm}"' > ${file}`)
  assert.equal(await pair.source.begin(vm), { refusal: { type: 'StartsByItself', vm } })
  await pair.hosts.run('source', 'rm', file)
  assert.ok('needs' in (await pair.source.begin(vm)))
})

test('a guest whose disks dom0 cannot write out runs on at home', async () => {
  // Its disk is there when the guest leaves, and not any more when it is to be written out.
  await pair.target.prepare(await pair.landing(vm))
  await pair.hosts.shell(
    'source',
    `xl block-attach ${vm} phy:${SHARED_DISK} xvdz w; mv ${SHARED_DISK} /dev/away`,
  )
  const failure = await failureOf(pair.copy(vm))
  await pair.hosts.run('source', 'mv', '/dev/away', SHARED_DISK)
  assert.ok(failure.type === 'HypervisorFailed')
  assert.match(failure.message, SHARED_DISK)
  await pair.target.clear(vm)
  await pair.source.resume(vm)
  assert.equal(await pair.states(vm), ['running', undefined])
  await pair.goesOn(vm)
  await pair.hosts.shell('source', `xl block-detach ${vm} xvdz`)
})

test('a guest that somebody pauses while it is copied stays paused, and stays at home', async () => {
  assert.is((await failureWith('pause', vm)).type, 'HypervisorFailed')
  const resumed = await pair.source.resume(vm)
  assert.ok(resumed?.wasPaused === true && resumed.leftPaused === true, JSON.stringify(resumed))
  assert.equal(await pair.states(vm), ['paused', undefined])
  await pair.hosts.run('source', 'xl', 'unpause', vm)
  await pair.goesOn(vm)
})

test('a guest that somebody ends while it is copied is gone, and its copy with it', async () => {
  await failureWith('destroy', vm)
  assert.is(await pair.source.resume(vm), undefined)
  const isGone = async () => (await pair.states(vm)).every((state) => state === undefined)
  await until('nothing of it to be left', isGone, PATIENCE_MS, LOOK_EVERY_MS)
  assert.equal(await failureOf(pair.source.perform(vm, performOrder(openWire()))), {
    type: 'GuestGone',
    vm,
  })
})

test.run()

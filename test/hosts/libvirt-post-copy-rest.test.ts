import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { systemClock } from '@ferry/events/clock'
import { procedures } from '@ferry/host-agent/drivers/libvirt/procedures'
import type { Parameter } from '@ferry/host-agent/drivers/libvirt/procedures'
import { connectLibvirt } from '@ferry/host-agent/drivers/libvirt/rpc'
import { MigrateFlag } from '@ferry/host-agent/drivers/libvirt/words'
import { workingGuest } from '../guest/boot-sector.ts'
import { victims } from '../lab/libvirt-blows.ts'
import { describeGuest, readMemoryOf } from '../lab/libvirt-guest.ts'
import { openLibvirtHosts } from '../lab/libvirt-hosts.ts'
import type { LibvirtHosts } from '../lab/libvirt-hosts.ts'
import { joinHosts } from '../lab/libvirt-network.ts'
import type { Network } from '../lab/libvirt-network.ts'
import { onItsWay } from '../lab/libvirt-post-copy.ts'
import { racks } from '../lab/libvirt-stage.ts'
import { until } from '../until.ts'

const test = suite('what is still to come in post-copy')

test('a rest that does not come any more is asked about at once', () =>
  onItsWay(async ({ hosts, telling }) => {
    await telling.first('TargetFetching')
    await hosts.virsh('rack1', 'destroy', 'web1')
    const doubt = await telling.first('DoubtRaised')
    assert.match(JSON.stringify(doubt), 'what it lacks does not come any more')
  }))

test('a rest that stopped on its way is sent on by an operator, as the question says, and it arrives', () =>
  onItsWay(async ({ hosts, network, telling, ended, onlyOn }) => {
    await telling.first('TargetFetching')
    await network.unplug()
    await hosts.virsh('rack1', 'domjobabort', '--postcopy', 'web1')
    await network.plug()
    const { event } = await telling.first('DoubtRaised')
    assert.match(JSON.stringify(event), 'virsh migrate --live --postcopy --postcopy-resume web1')
    const address = network.addressOf('rack2')
    const there = [`qemu+unix:///system?socket=${hosts.socket('rack2')}`, `tcp://${address}`]
    const words = ['migrate', '--live', '--postcopy', '--postcopy-resume', 'web1', ...there]
    await hosts.virsh('rack1', ...words, '--listen-address', address)
    assert.is((await ended('m1')).phase, 'completed')
    await onlyOn('rack2')
    // It fetched, it did not, it fetched again: each is said once.
    const fetching = telling.said.filter(({ event }) => event.type === 'TargetFetching')
    assert.ok(fetching.length <= 3, `${fetching.length} times`)
  }))

test('a cancel between the offer and the verdict lets it go on where it is', () =>
  onItsWay(async ({ hosts, lab, telling, ended, onlyOn, imageFlows, hold, letGo }) => {
    await imageFlows()
    hold(lab.logLink('rack2'), 'in')
    await telling.first('SourcePaused')
    await lab.cancel('m1')
    const isBack = async () => (await hosts.virsh('rack1', 'domstate', 'web1')).includes('running')
    await until('the guest to go on', isBack)
    letGo()
    assert.is((await ended('m1')).phase, 'abandoned')
    await onlyOn('rack1')
    const names = telling.said.map(({ event }) => event.type)
    assert.not(names.includes('Committed'), names.join())
  }))

test('a source that hears nothing behind its offer waits, and what was decided is done', () =>
  onItsWay(async ({ hosts, lab, network, telling, ended, onlyOn, imageFlows, hold, letGo }) => {
    await imageFlows()
    // What is on its way to the target meanwhile waits, so that the source is deaf before anything is decided.
    const hear = hold(lab.logLink('rack2'), 'in')
    await telling.first('SourcePaused')
    hold(lab.logLink('rack1'), 'in')
    hear()
    await telling.first('Committed')
    await until('all of it to have passed', () => isStill(network))
    for (const rack of racks) assert.match(await hosts.virsh(rack, 'domstate', 'web1'), 'paused')
    letGo()
    assert.is((await ended('m1')).phase, 'completed')
    await onlyOn('rack2')
  }))

test('a source whose target is fenced while nothing gets across says at once that it is lost', () =>
  onItsWay(async (scene) => {
    const { hosts, lab, network, telling, imageFlows, hold, letGo } = scene
    await imageFlows()
    const hear = hold(lab.logLink('rack2'), 'in')
    await telling.first('SourcePaused')
    await network.unplug()
    hear()
    await telling.first('Committed')
    // Turned off: nobody is left there who could say what became of it.
    await lab.agent('rack2').end('SIGKILL')
    await victims['target mover'].strike(scene)
    await hosts.virsh('rack2', 'destroy', 'web1')
    letGo()
    await telling.first('DoubtRaised')
    const { code, stderr } = await lab.ferry('resolve', 'm1', '--fenced', 'rack2')
    assert.is(code, 0, stderr)
    await telling.first('SourceLost')
    assert.match(await hosts.virsh('rack1', 'domstate', '--reason', 'web1'), 'paused (post-copy')
  }))

/** Nothing more has passed for a while. */
async function isStill(network: Network): Promise<boolean> {
  const before = await network.passedBytes()
  await systemClock.sleep(500)
  return (await network.passedBytes()) === before
}

const names = ['source', 'target'] as const
const vm = 'web1'
const POST_COPY = 1 << 15
const FLAGS = MigrateFlag.live | POST_COPY
/** MiB a second: slow enough for most of it to be at home still. */
const SLOW = 4n
const FINISH_MS = 60_000

/** Why the verdict comes before it: libvirt's own phases, one by one, and nothing of Ferry's but the words of its protocol. */
test('what has gone over to it cannot be had back, though nobody has started it at the target', async () => {
  const root = await mkdtemp(join(tmpdir(), 'ferry-'))
  const hosts = await openLibvirtHosts(root, names)
  try {
    const network = await joinHosts(hosts, names)
    const file = join(root, 'guest.xml')
    await writeFile(file, await describeGuest(root, vm, { program: workingGuest, memoryMiB: 128 }))
    await hosts.virsh('source', 'create', file)
    const isAtWork = async () =>
      (await readMemoryOf(hosts, 'source', root, vm, workingGuest)).sweeps > 0
    await until('the guest to be at work', isAtWork)

    const goOn = await switchedOver(hosts, network)
    assert.match(await stateOn(hosts, 'source'), 'paused (post-copy)')
    assert.match(await stateOn(hosts, 'target'), 'paused (migrating)')

    // The target is gone before anybody could commit to it, and nearly all of the guest's memory is still at home.
    await hosts.virsh('target', 'destroy', vm)
    assert.match(await refused(hosts, 'domjobabort'), 'cannot abort migration in post-copy mode')
    await goOn()
    assert.match(await stateOn(hosts, 'source'), 'paused (post-copy failed)')
    assert.match(await refused(hosts, 'resume'), 'Failed to resume domain')
    assert.match(await stateOn(hosts, 'source'), 'paused (post-copy failed)')
  } finally {
    await hosts.close()
    await rm(root, { recursive: true })
  }
})

const stateOn = (hosts: LibvirtHosts, host: string) => hosts.virsh(host, 'domstate', '--reason', vm)

const refused = (hosts: LibvirtHosts, what: string): Promise<string> =>
  hosts.virsh('source', what, vm).then(() => 'not refused', String)

/** Begin, Prepare and Perform. @returns how libvirt's own client goes on: Finish, and Confirm by how that went. */
async function switchedOver(hosts: LibvirtHosts, network: Network): Promise<() => Promise<void>> {
  const open = (host: string) => connectLibvirt(hosts.socket(host), systemClock)
  const [source, target] = [await open('source'), await open('target')]
  const { domain } = await source.call(procedures.lookUp, { name: vm })
  const begun = await source.call(procedures.begin, { domain, parameters: [], flags: FLAGS })
  const address = network.addressOf('target')
  const text = (field: string, value: string): Parameter => ({ field, is: 'string', value })
  const parameters = [
    text('migrate_uri', `tcp://${address}`),
    text('listen_address', address),
    text('destination_xml', begun.xml),
    text('destination_name', vm),
  ]
  const landing = { parameters, cookie: begun.cookie, flags: FLAGS }
  const { uri = '', cookie } = await target.call(procedures.prepare, landing, 60_000)
  const slowly = ['bandwidth', 'bandwidth.postcopy'].map((field): Parameter => ({
    field,
    is: 'ullong',
    value: SLOW,
  }))
  const before = await network.passedBytes()
  const performing = source.call(
    procedures.perform,
    {
      domain,
      otherUri: undefined,
      parameters: [text('migrate_uri', uri), ...slowly],
      cookie,
      flags: FLAGS,
    },
    'unlimited',
  )
  performing.catch(() => {})
  const isFlowing = async () => (await network.passedBytes()) > before + 2 ** 20
  await until('the image to flow', isFlowing)
  await hosts.virsh('source', 'migrate-postcopy', vm)
  const { cookie: sent } = await performing
  const finish = { parameters, cookie: sent, flags: FLAGS, isCancelled: 0 }
  return async () => {
    const { said, isCancelled } = await target.call(procedures.finish, finish, FINISH_MS).then(
      (finished) => ({ said: finished.cookie, isCancelled: 0 }),
      () => ({ said: '', isCancelled: 1 }),
    )
    const confirm = { domain, parameters: [], cookie: said, flags: FLAGS, isCancelled }
    await source.call(procedures.confirm, confirm)
  }
}

test.run()

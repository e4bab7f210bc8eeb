import { readFile } from 'node:fs/promises'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readTimeline } from '@ferry/coordinator/cli/explain'
import { smallGuest } from '../guest/boot-sector.ts'
import { moments, sceneOf, victims } from '../lab/libvirt-blows.ts'
import type { Moment, Scene, Victim } from '../lab/libvirt-blows.ts'
import { PATIENCE_MS, bootSectorGuest, other, racks, withGuest } from '../lab/libvirt-stage.ts'
import type { Rack, Stage } from '../lab/libvirt-stage.ts'
import { until } from '../until.ts'

/** Its image goes from QEMU to QEMU, over libvirt's own TCP, because an operator wants that. */
const test = suite('a guest of libvirt that goes directly')

test('moves there and back five times, over one connection and over four, and its image passes no agent', () =>
  withGuest(bootSectorGuest(), async ({ lab, network, move, ended, onlyOn }) => {
    for (let nth = 1; nth <= 10; nth++) {
      const target = nth % 2 === 1 ? 'rack2' : 'rack1'
      const { passedBytes } = lab.link(target)
      const before = { onCable: await network.passedBytes(), toAgent: passedBytes() }
      await move(`m${nth}`, target, { directConnections: nth % 4 < 2 ? 1 : 4 })
      const { phase, attempt } = await ended(`m${nth}`)
      assert.equal([phase, attempt], ['completed', 1])
      await onlyOn(target)
      const { copy } = (await readTimeline(lab.connection, `m${nth}`)).attempts[0] ?? {}
      assert.ok(copy !== undefined && copy.bytes > 2 ** 20)
      assert.ok((await network.passedBytes()) - before.onCable > copy.bytes)
      assert.is(passedBytes(), before.toAgent)
    }
  }))

/** Two seconds to copy, so that there is time for a blow. */
const SLOWLY = {
  bandwidthBytesPerSecond: (smallGuest.toByte - smallGuest.fromByte) / 2,
  downtimeMs: 4000,
  directConnections: 1,
}

const slowGuest = () => bootSectorGuest(smallGuest, 64)

test('is waited for on the address that was named, and on no other', () =>
  withGuest(slowGuest(), async (stage) => {
    const { hosts, move, ended, network } = stage
    const scene = await sceneOf(stage, 'm1', 'rack2', network.passedBytes)
    try {
      await move('m1', 'rack2', SLOWLY)
      await reached(scene, 'prepared')
      assert.equal(await listenersAt(await hosts.pid('rack2')), [network.addressOf('rack2')])
      scene.letGo()
      assert.is((await ended('m1')).phase, 'completed')
    } finally {
      scene.letGo()
      scene.telling.close()
    }
  }))

/** The addresses on which anybody listens in the network of a process: of IPv4, and of IPv6 as they stand there. */
async function listenersAt(pid: number): Promise<string[]> {
  const tables = await Promise.all(
    ['tcp', 'tcp6'].map((name) => readFile(`/proc/${pid}/net/${name}`, 'utf8')),
  )
  return tables.flatMap((table) =>
    table
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .filter((columns) => columns[3] === LISTENS)
      .map(([, local = '']) => addressIn(local.split(':')[0] ?? '')),
  )
}

/** As the kernel writes a state of a socket. */
const LISTENS = '0A'

const addressIn = (hex: string): string =>
  hex.length === 8 ? [...Buffer.from(hex, 'hex')].toReversed().join('.') : hex

test('takes other limits on its way, and goes home when that is cancelled', () =>
  withGuest(bootSectorGuest(), async ({ lab, network, move, ended, onlyOn }) => {
    const neverDone = { bandwidthBytesPerSecond: 16 * 2 ** 20, downtimeMs: 1, directConnections: 2 }
    const flowing = async () => {
      const before = await network.passedBytes()
      const isFlowing = async () => (await network.passedBytes()) > before + 2 ** 20
      await until('the image to flow', isFlowing, PATIENCE_MS)
    }
    await move('m1', 'rack2', neverDone)
    await flowing()
    const limited = await lab.ferry('limit', 'm1', '--bandwidth', 'none', '--downtime', '20000')
    assert.is(limited.code, 0, limited.stderr)
    const { phase, attempt } = await ended('m1')
    assert.equal([phase, attempt], ['completed', 1])
    await onlyOn('rack2')
    await move('m2', 'rack1', neverDone)
    await flowing()
    assert.ok((await lab.cancel('m2')).accepted)
    assert.is((await ended('m2')).phase, 'abandoned')
    await onlyOn('rack2')
  }))

test('runs on at home when the log is silent at its pause, and arrives when it answers again', () =>
  withGuest(slowGuest(), async (stage) => {
    const { lab, hosts, move, ended, onlyOn, network } = stage
    const scene = await sceneOf(stage, 'm1', 'rack2', network.passedBytes)
    try {
      await move('m1', 'rack2', SLOWLY)
      await scene.imageFlows()
      scene.hold(lab.logLink('rack1'), 'both')
      const isGivenUp = async () => {
        const job = await hosts.virsh('rack1', 'domjobinfo', 'web1')
        const state = await hosts.virsh('rack1', 'domstate', 'web1')
        return job.includes('None') && state.trim() === 'running'
      }
      await until('the guest to run on', isGivenUp, PATIENCE_MS)
      scene.letGo()
      const { phase, attempt } = await ended('m1')
      assert.equal([phase, attempt], ['completed', 2])
      await onlyOn('rack2')
      const { attempts } = await readTimeline(lab.connection, 'm1')
      assert.match(JSON.stringify(attempts[0]?.verdict?.cause), 'LogSilent')
    } finally {
      scene.letGo()
      scene.telling.close()
    }
  }))

test('arrives though both agents are killed while it is copied, and come back only when it runs', () =>
  withGuest(slowGuest(), async (stage) => {
    const { lab, move, ended, onlyOn, network } = stage
    const scene = await sceneOf(stage, 'm1', 'rack2', network.passedBytes)
    const isRunning = lab.event('it to run', ({ type }) => type === 'TargetRunning', PATIENCE_MS)
    try {
      await move('m1', 'rack2', SLOWLY)
      await scene.imageFlows()
      await Promise.all(racks.map((rack) => lab.agent(rack).end('SIGKILL')))
      await isRunning
      for (const rack of racks) lab.agent(rack).start()
      const { phase, attempt } = await ended('m1')
      assert.equal([phase, attempt], ['completed', 1])
      await onlyOn('rack2')
    } finally {
      scene.telling.close()
    }
  }))

test('waits while its cable is unplugged, goes home when that is cancelled, and comes when the cable is back', () =>
  withGuest(slowGuest(), async (stage) => {
    const { lab, hosts, move, ended, onlyOn, network } = stage
    for (const [request, isCancelled] of [
      ['m1', true],
      ['m2', false],
    ] as const) {
      const scene = await sceneOf(stage, request, 'rack2', network.passedBytes)
      try {
        await move(request, 'rack2', SLOWLY)
        await scene.imageFlows()
        await network.unplug()
        if (isCancelled) {
          assert.ok((await lab.cancel(request)).accepted)
          assert.is((await ended(request)).phase, 'abandoned')
          await onlyOn('rack1')
        }
        assert.match(await hosts.virsh('rack1', 'domstate', 'web1'), 'running')
        await network.plug()
      } finally {
        scene.telling.close()
      }
    }
    assert.is((await ended('m2')).phase, 'completed')
    await onlyOn('rack2')
  }))

/** The verdict and what is behind it do not know which way the image came: `libvirt-killed` has those moments. */
type When = 'copying' | Extract<Moment, 'prepared' | 'performed' | 'running'>

const blows: Readonly<Record<When, readonly Victim[]>> = {
  prepared: ['source agent', 'target agent', 'target mover', 'source libvirtd', 'target libvirtd'],
  copying: [
    'source agent',
    'target agent',
    'source mover',
    'target mover',
    'source libvirtd',
    'target libvirtd',
  ],
  performed: ['source agent', 'target agent', 'target mover', 'source libvirtd', 'target libvirtd'],
  running: ['source agent', 'source libvirtd'],
}
const cells = (Object.keys(blows) as When[]).flatMap((when) =>
  blows[when].map((victim) => ({ when, victim })),
)

test(`one whole guest runs on the target after each of ${cells.length} blows`, () =>
  withGuest(slowGuest(), async (stage) => {
    let rack: Rack = 'rack1'
    console.log('| when | killed | outcome |\n| --- | --- | --- |')
    for (const [nth, { when, victim }] of cells.entries()) {
      const target = other(rack)
      console.log(
        `| ${when} | ${victim} | ${await struck(stage, `m${nth}`, target, when, victim)} |`,
      )
      rack = target
    }
  }))

async function struck(
  stage: Stage,
  request: string,
  target: Rack,
  when: When,
  victim: Victim,
): Promise<string> {
  const scene = await sceneOf(stage, request, target, stage.network.passedBytes)
  try {
    await scene.move(request, target, SLOWLY)
    await reached(scene, when)
    await victims[victim].strike(scene)
    scene.letGo()
    const { phase } = await stage.ended(request)
    assert.is(phase, 'completed', `${victim}, ${when}`)
    await stage.onlyOn(target)
    const { attempts } = await readTimeline(stage.lab.connection, request)
    return `completed, attempt ${attempts.length}`
  } finally {
    scene.letGo()
    scene.telling.close()
  }
}

async function reached(scene: Scene, when: When): Promise<void> {
  if (when === 'copying') return scene.imageFlows()
  const { fact, hold } = moments[when]
  await hold(scene)
  await scene.telling.first(fact)
}

test.run()

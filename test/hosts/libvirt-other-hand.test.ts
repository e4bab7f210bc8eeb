import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readTimeline } from '@ferry/coordinator/cli/explain'
import { causeSentence } from '@ferry/events/sentences'
import { smallGuest } from '../guest/boot-sector.ts'
import { describeGuest } from '../lab/libvirt-guest.ts'
import { sceneOf } from '../lab/libvirt-blows.ts'
import { PATIENCE_MS, bootSectorGuest, withGuest } from '../lab/libvirt-stage.ts'
import type { Rack, Stage } from '../lab/libvirt-stage.ts'
import { until } from '../until.ts'

/** Operators have virsh. What they do to a guest on its way is noticed, said with its reason, and not fought over. */
const test = suite("somebody else's hand on a guest of libvirt")

const MEMORY_MIB = 64
const small = () => bootSectorGuest(smallGuest, MEMORY_MIB)

/** It takes some seconds, and may be tried three times: only its reason forbids that. */
const slowly = { bandwidthBytesPerSecond: 2_000_000, downtimeMs: 20_000 }

/** Which way its image takes when that happens: through Ferry's stream, or from QEMU to QEMU. */
const ways = { '': {}, ' while it goes directly': { directConnections: 1 } } as const

/** Does it while the image flows. @returns how the migration ended, and what it says why. */
async function meanwhile(stage: Stage, way: object, act: () => Promise<unknown>) {
  const isDirect = 'directConnections' in way
  const scene = await sceneOf(
    stage,
    'm1',
    'rack2',
    isDirect ? stage.network.passedBytes : undefined,
  )
  try {
    await stage.move('m1', 'rack2', { ...slowly, ...way })
    await scene.imageFlows()
    await act()
    const { phase } = await stage.ended('m1')
    const { end } = await readTimeline(stage.lab.connection, 'm1')
    const why = end?.cause === undefined ? '' : causeSentence(end.cause)
    return { phase, why, isLost: end?.guestLost }
  } finally {
    scene.telling.close()
  }
}

const listed = async ({ hosts }: Stage, rack: Rack) =>
  (await hosts.virsh(rack, 'list', '--all', '--name')).trim()

for (const [when, way] of Object.entries(ways)) {
  test(`one that somebody pauses stays where it is, and paused${when}`, () =>
    withGuest(small(), async (stage) => {
      const { hosts, onlyOn, move, ended } = stage
      const end = await meanwhile(stage, way, () => hosts.virsh('rack1', 'suspend', 'web1'))
      assert.equal(end, {
        phase: 'abandoned',
        why: 'rack1: somebody else has paused it',
        isLost: false,
      })
      assert.match(await hosts.virsh('rack1', 'domstate', '--reason', 'web1'), 'paused (user)')
      await until('nothing to be left there', async () => (await listed(stage, 'rack2')) === '')
      await hosts.virsh('rack1', 'resume', 'web1')
      await onlyOn('rack1')
      await move('m2', 'rack2')
      assert.is((await ended('m2')).phase, 'completed')
      await onlyOn('rack2')
    }))

  test(`one that somebody ends is said to be lost, and is not started anywhere${when}`, () =>
    withGuest(small(), async (stage) => {
      const end = await meanwhile(stage, way, () => stage.hosts.virsh('rack1', 'destroy', 'web1'))
      assert.equal(end, {
        phase: 'abandoned',
        why: 'rack1: somebody else has ended it',
        isLost: true,
      })
      const gone = async () => [await listed(stage, 'rack1'), await listed(stage, 'rack2')].join()
      await until('nothing to be left', async () => (await gone()) === ',')
    }))

  test(`one that somebody ends and starts anew stays where it was started${when}`, () =>
    withGuest(small(), async (stage) => {
      const { hosts, folder, onlyOn } = stage
      const file = join(folder, 'anew.xml')
      const guest = { program: smallGuest, memoryMiB: MEMORY_MIB }
      await writeFile(file, await describeGuest(folder, 'web1', guest))
      const end = await meanwhile(stage, way, async () => {
        await hosts.virsh('rack1', 'destroy', 'web1')
        await hosts.virsh('rack1', 'create', file)
      })
      assert.equal(end, {
        phase: 'abandoned',
        why: 'rack1: somebody else has ended it',
        isLost: false,
      })
      await onlyOn('rack1')
    }))

  test(`one whose copy somebody ends on the target runs on at home${when}`, () =>
    withGuest(small(), async (stage) => {
      const end = await meanwhile(stage, way, () => stage.hosts.virsh('rack2', 'destroy', 'web1'))
      assert.equal(end, {
        phase: 'abandoned',
        why: 'rack2: somebody else has ended the copy that was to receive it',
        isLost: false,
      })
      await stage.onlyOn('rack1')
    }))
}

/** As an operator would: slowly, and in the end with the guest paused. Both hosts see the socket, so it needs no network. */
function migrateByHand({ hosts, folder }: Stage): Promise<unknown> {
  const target = `qemu+unix:///system?socket=${hosts.socket('rack2')}`
  const words = ['--migrateuri', `unix://${join(folder, 'by-hand.sock')}`]
  words.push('--bandwidth', '1', '--timeout', '5')
  return hosts.virsh('rack1', 'migrate', '--live', 'web1', target, ...words)
}

test('one that somebody is moving already is left to them', () =>
  withGuest(small(), async (stage) => {
    const { hosts, onlyOn, lab, ended } = stage
    const byHand = migrateByHand(stage)
    byHand.catch(() => {})
    const isMoving = async () =>
      (await hosts.virsh('rack1', 'domjobinfo', 'web1')).includes('Outgoing migration')
    await until('it to be moved', isMoving, PATIENCE_MS)
    const answer = await lab.migrate({ request: 'm1', vm: 'web1', target: 'rack2' })
    if (answer.accepted) {
      assert.is((await ended('m1')).phase, 'abandoned')
      const { end } = await readTimeline(lab.connection, 'm1')
      assert.match(
        end?.cause === undefined ? '' : causeSentence(end.cause),
        'somebody else is moving it',
      )
      assert.is(end?.guestLost, false)
    } else assert.match(answer.sentence, 'web1')
    await byHand
    await onlyOn('rack2')
  }))

test('one that Ferry is moving is not moved by somebody else: libvirt says no, and it arrives', () =>
  withGuest(small(), async (stage) => {
    let said = ''
    const byHand = () => migrateByHand(stage).catch((error: Error) => (said = error.message))
    const { phase } = await meanwhile(stage, {}, byHand)
    assert.is(phase, 'completed')
    assert.match(said, 'virsh')
    await stage.onlyOn('rack2')
  }))

test.run()

import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { EventOf } from '@ferry/schemas/event'
import type { MessageName } from '@ferry/schemas/messages'
import type { MigrateRequest } from '@ferry/schemas/request'
import { quietGuest } from '../guest/boot-sector.ts'
import { notHere } from '../not-here.ts'
import { until } from '../until.ts'
import { ROOT, withLab } from './lab.ts'
import type { Lab } from './lab.ts'
import { migrationStatusIn } from './outside.ts'
import { OLDEST, isKept, releaseOf } from './release.ts'

/** A fleet that is upgraded while its guest is moved: nobody waits until all are of one release. */
const test = suite('two releases beside each other')

/** At this speed it takes seconds to copy. */
const guest = { ...quietGuest, fillToByte: 48 * 2 ** 20 }
const slow = { bandwidthBytesPerSecond: 8 * 2 ** 20 }

if (await isKept(OLDEST))
  test('the guest moves there, back and there again, while coordinator and agents are upgraded', async () => {
    const old = await releaseOf(OLDEST)
    const treeOf = (name: string) => (name === 'rack2' ? ROOT : old)
    const options = { hosts: ['rack1', 'rack2'], driver: 'qemu', treeOf } as const
    await withLab(options, async (lab) => {
      await lab.defineGuest('web1', { program: guest, memoryMiB: 64 })
      await lab.start('web1', 'rack1')

      // An older coordinator and an older source, a newer target.
      await asked(lab, { request: 'there', target: 'rack2' })
      await arrived(lab, 'there', 'rack2')
      assert.is((await said(lab, 'there', 'MigrationBegun')).data.definitionVersion, undefined)
      assert.is((await said(lab, 'there', 'TargetPrepared')).data.definitionVersion, 1)

      // A newer coordinator and a newer source, an older target.
      await lab.coordinator.end()
      lab.coordinator.runFrom(ROOT)
      lab.coordinator.start()
      await asked(lab, { request: 'back', target: 'rack1' })
      await arrived(lab, 'back', 'rack1')
      assert.is((await said(lab, 'back', 'MigrationBegun')).data.definitionVersion, 1)
      assert.is((await said(lab, 'back', 'TargetPrepared')).data.definitionVersion, undefined)

      // The older source's agent is upgraded while it copies: the next one finds the mover that it started.
      const { folder } = await lab.onlyRunning()
      await asked(lab, { request: 'again', target: 'rack2', policy: slow })
      await until('it to be copied', async () => (await migrationStatusIn(folder)) === 'active')
      await lab.agent('rack1').end()
      lab.agent('rack1').runFrom(ROOT)
      lab.agent('rack1').start()
      await arrived(lab, 'again', 'rack2')
      assert.match(await lab.agent('rack1').log(), /"isAlive":true.*a mover of the agent before/)
      assert.is((await said(lab, 'again', 'MigrationBegun')).data.definitionVersion, undefined)
    })
  })
else
  notHere(
    `real/two-releases: ${OLDEST} is not in this clone, which takes the whole history (\`git fetch --unshallow\`)`,
  )

/** A coordinator that has just been started may not have heard of the hosts yet. */
const asked = (lab: Lab, wish: Partial<MigrateRequest> & { request: string }): Promise<void> =>
  until(
    `${wish.request} to be accepted`,
    async () => (await lab.migrate({ vm: 'web1', ...wish })).accepted,
  )

/** At the first attempt, and whole. */
async function arrived(lab: Lab, migration: string, host: string): Promise<void> {
  const { phase, attempt, sentence } = await lab.ended(migration)
  assert.equal([phase, attempt], ['completed', 1], sentence)
  const { folder } = await lab.onlyRunning()
  assert.ok(folder.includes(`/${host}/`), folder)
  assert.is((await lab.qemus()).length, 1)
  assert.is((await lab.memory('web1', guest)).fault, undefined)
}

async function said<Name extends MessageName>(
  { connection }: Lab,
  migration: string,
  name: Name,
): Promise<EventOf<Name>> {
  for await (const { message } of connection.log.read({ after: 0 })) {
    if (message.is !== 'event' || message.event.type !== name) continue
    if ('migration' in message.event && message.event.migration === migration)
      return message.event as EventOf<Name>
  }
  throw new Error(`${name} of ${migration} is not in the log`)
}

test.run()

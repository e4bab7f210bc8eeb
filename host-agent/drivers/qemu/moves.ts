import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { CopyFailed, NeverStarted } from '../../driver.ts'
import type { Moves } from '../../driver.ts'
import { folderOf } from '../../folders.ts'
import { describe, findCopies, findCopy, kill } from './copy.ts'
import { needsOf } from './definition.ts'
import { isUnderWay, queryMigration } from './migration.ts'
import { isPausedByHand, letRun, stateOf } from './monitors.ts'
import type { Monitors } from './monitors.ts'
import { byOtherHand, perform } from './perform.ts'
import { nextEvent } from './qmp.ts'
import type { Qmp } from './qmp.ts'
import { receive } from './receive.ts'

/** What can be done with copies that are here already: it needs to know nothing about this host's QEMU. */
export function qemuMoves({ guests, clock, look, attach, end, close }: Monitors): Moves {
  return {
    inspect: async () => {
      const copies = await findCopies(guests)
      const seen = await Promise.all(
        copies.map(async ({ file: { vm, definition, receives } }) => ({
          vm,
          needs: needsOf(definition),
          state: await look(vm).then(
            (seen) => seen?.state,
            () => 'unresponsive' as const,
          ),
          ...(receives === undefined ? {} : { receives }),
        })),
      )
      return seen.flatMap(({ state, ...guest }) =>
        state === undefined ? [] : [{ ...guest, state }],
      )
    },

    perform: async (vm, order) => {
      const here = await look(vm)
      if (here === undefined) throw new CopyFailed({ type: 'GuestGone', vm })
      if (await isPausedByHand(here)) throw byOtherHand()
      // Another process began it: what it sent, and to whom, nobody knows any more.
      if (here.state !== 'running' || isUnderWay(await queryMigration(here.qmp)))
        throw new CopyFailed({ type: 'AgentRestarted' })
      return perform(here, order, clock)
    },

    receive: async (vm, order) => {
      const here = await look(vm)
      if (here === undefined) throw new CopyFailed({ type: 'GuestGone', vm })
      if (here.state !== 'receiving' || isUnderWay(await queryMigration(here.qmp)))
        throw new CopyFailed({ type: 'AgentRestarted' })
      return receive(here, order, clock)
    },

    activate: async (vm) => {
      const here = await look(vm)
      if (here === undefined) throw new NeverStarted({ type: 'GuestGone', vm })
      const { copy, qmp, state } = here
      const runningAt = state === 'running' ? clock.now() : await letRun(qmp, clock)
      const { receives: _, ...file } = copy.file
      await describe(copy.folder, file)
      return { runningAt }
    },

    release: async (vm) => {
      // One that does not even answer any more is ended all the same: the guest runs elsewhere.
      const here = await attach(vm).catch(() => undefined)
      if (here !== undefined) return end(here)
      const copy = await findCopy(folderOf(guests, vm))
      if (copy !== undefined) await kill(copy, clock)
    },

    resume: async (vm) => {
      const here = await look(vm)
      if (here === undefined) return undefined
      const wasPaused = here.state !== 'running'
      await stopCopying(here.qmp, clock)
      if (await isPausedByHand(here)) return { wasPaused, runningAt: clock.now(), leftPaused: true }
      const runningAt =
        (await stateOf(here)) === 'running' ? clock.now() : await letRun(here.qmp, clock)
      return { wasPaused, runningAt }
    },

    clear: async (vm) => {
      const here = await look(vm)
      // D6: a copy without its mark has run, or may have.
      if (here?.copy.file.receives === undefined || here.state === 'running') return
      await end(here)
    },

    close,
  }
}

const CANCEL_MS = 20_000

/** Ends a migration that is under way, and waits until QEMU says that it has ended. */
async function stopCopying(qmp: Qmp, clock: Clock): Promise<void> {
  const ended = nextEvent(qmp, ({ event, data }) => event === 'MIGRATION' && isFinal(data.status))
  try {
    if (!isUnderWay(await queryMigration(qmp))) return
    await qmp.execute('migrate_cancel')
    if (isUnderWay(await queryMigration(qmp)))
      await within(clock, CANCEL_MS, 'the end of the copying', ended.event)
  } finally {
    ended.forget()
  }
}

const isFinal = (status: unknown): boolean =>
  status === 'cancelled' || status === 'failed' || status === 'completed'

import { CopyFailed, NeverStarted } from '../../driver.ts'
import type { Moves } from '../../driver.ts'
import { folderOf } from '../../folders.ts'
import { isCode, unlessGone } from './daemon.ts'
import type { Daemon, Job, Looked } from './daemon.ts'
import { MARK_NAMESPACE, needsIn } from './domain-xml.ts'
import { letGo, openHeld } from './holder.ts'
import type { Held } from './holder.ts'
import { dropImages, keepImages, noteLeft, noteSent } from './image-files.ts'
import { byOtherHand, disown, isOurs, whatElse } from './other-hand.ts'
import { perform } from './perform.ts'
import { startPostCopy } from './post-copy.ts'
import { procedures } from './procedures.ts'
import type { Domain, Parameter } from './procedures.ts'
import { receive } from './receive.ts'
import { startReceived } from './start-received.ts'
import { Affects, Code, JobNumbers, JobType, MetadataIs, MigrateFlag, Undefine } from './words.ts'

export type LibvirtFolders = {
  /** Of each guest that is sent from here: its socket, and who keeps its connection. */
  readonly guests: string
  /** Where QEMU listens for images: libvirt's AppArmor profile for guests lets it do so under /run/libvirt. */
  readonly images: string
}

/** What can be done with guests that are here already. */
export function libvirtMoves(daemon: Daemon, { guests, images }: LibvirtFolders): Moves {
  const { clock, look } = daemon
  /** The copy that has been received here last. */
  let landed: Looked | undefined
  let atHand: Held | undefined
  const sender = async (): Promise<Held> => {
    const ready = atHand
    atHand = undefined
    if (ready?.libvirt.isClosed() === false) return ready
    ready?.holder?.close()
    return openHeld(daemon)
  }

  const lookWithJob = async (vm: string) => {
    const jobOn = async () => {
      const domain = await daemon.find(vm)
      return domain && daemon.jobOn(domain)
    }
    const [here, job] = await Promise.all([look(vm), jobOn()])
    return { here, job }
  }

  /** Ends a copy as the end of a migration, if libvirt still knows that it was one; else as any guest. */
  async function endSent({ domain, state }: Looked, job: Job | undefined): Promise<void> {
    const libvirt = await daemon.libvirt()
    if (state === 'sent' && job !== undefined)
      try {
        return await libvirt.call(procedures.confirm, {
          domain,
          parameters: [],
          cookie: '',
          flags: MigrateFlag.live | MigrateFlag.paused,
          isCancelled: 0,
        })
      } catch (error) {
        if (!isCode(error, Code.operationInvalid)) throw error
      }
    await daemon.end(domain)
  }

  async function undefine(domain: Domain): Promise<void> {
    const libvirt = await daemon.libvirt()
    const { keepNvram, keepTpm } = Undefine
    // libvirt before 8.9 does not know the second.
    for (const flags of [keepNvram | keepTpm, keepNvram])
      try {
        return await libvirt.call(procedures.undefine, { domain, flags })
      } catch (error) {
        if (isCode(error, Code.noDomain)) return
        if (!isCode(error, Code.invalidArgument) || flags === keepNvram) throw error
      }
  }

  const resume: Moves['resume'] = async (vm) => {
    const here = await look(vm)
    const folder = folderOf(guests, vm)
    if (here === undefined) {
      // What somebody starts here later is not Ferry's to stop.
      await Promise.all([letGo(folder), disown(folder), noteSent(folder, [])])
      return undefined
    }
    // Post-copy: what runs is at the target, and what is here is no whole guest any more.
    if (here.state === 'sent' && here.rest !== undefined) return undefined
    const { domain } = here
    // Without the connection that sent it libvirt drops the job: then it is a paused guest like any other.
    const isOwn = await isOurs(folder)
    await letGo(folder)
    if (isOwn) await stopCopying(daemon, here)
    await disown(folder)
    await noteSent(folder, [])
    const now = await look(vm)
    if (now === undefined) return undefined
    const wasPaused = here.state !== 'running'
    if (now.isPausedByHand) return { wasPaused, runningAt: clock.now(), leftPaused: true }
    if (now.state !== 'running') {
      const libvirt = await daemon.libvirt()
      await libvirt.call(procedures.resume, { domain })
    }
    return { wasPaused, runningAt: clock.now() }
  }

  return {
    getReady: async () => {
      await daemon.getReady()
      atHand = await openHeld(daemon)
    },

    inspect: async () =>
      (await daemon.all()).map(({ domain, xml, state, mark }) => ({
        vm: domain.name,
        needs: needsIn(xml),
        state,
        ...(mark === undefined
          ? {}
          : { receives: { migration: mark.migration, attempt: mark.attempt } }),
      })),

    perform: async (vm, order) => {
      const folder = folderOf(guests, vm)
      const { here, job } = await lookWithJob(vm)
      if (here === undefined) throw new CopyFailed({ type: 'GuestGone', vm })
      if (here.isPausedByHand) throw byOtherHand('somebody else has paused it')
      if (job !== undefined && !(await isOurs(folder))) throw byOtherHand(whatElse[job])
      // Another process began it: what it sent, and to whom, nobody knows any more.
      if (here.state !== 'running' || job !== undefined)
        throw new CopyFailed({ type: 'AgentRestarted' })
      return perform(here, order, daemon, { folder, images, sender, sendHome: () => resume(vm) })
    },

    goOn: async (vm, signal) => {
      for (;;) {
        signal.throwIfAborted()
        const here = await look(vm)
        if (here === undefined) return { rounds: 0, directBytes: 0 }
        const libvirt = await daemon.libvirt()
        const ask = (flags: number) =>
          unlessGone(() => libvirt.call(procedures.jobNumbers, { domain: here.domain, flags }))
        const [now, over] = [
          await ask(0),
          await ask(JobNumbers.completed | JobNumbers.keepCompleted),
        ]
        const sent = bytesIn(now)
        // What is over may be what an attempt before this one did.
        const isThrough = over?.type === JobType.completed && bytesIn(over) === sent
        if (here.rest !== undefined || (here.state === 'sent' && isThrough))
          return { rounds: 0, directBytes: sent ?? 0 }
        if (here.state !== 'sent' || now === undefined || now.type === JobType.none)
          throw new CopyFailed({
            type: 'HypervisorFailed',
            message: 'libvirt broke it off before the guest had gone over',
          })
        await startPostCopy(libvirt, here.domain)
        await clock.sleep(GO_ON_MS, signal)
      }
    },

    receive: async (vm, order) => {
      const here = await look(vm)
      if (here === undefined) throw new CopyFailed({ type: 'GuestGone', vm })
      // What comes directly goes on whoever waits for it.
      const isThere = here.state === 'loaded' && here.mark?.comesDirectly === true
      if (here.state !== 'receiving' && !isThere) throw new CopyFailed({ type: 'AgentRestarted' })
      landed = here
      return receive(here, order, daemon, { folder: folderOf(guests, vm), images })
    },

    activate: async (vm, rest) => {
      const known = landed?.domain.name === vm ? landed : undefined
      const mayLack = known === undefined || known.mark?.isPostCopy === true
      const here = mayLack ? await look(vm) : undefined
      const early =
        here?.mark?.isPostCopy === true ? await startReceived(here, daemon, rest) : undefined
      // How libvirt calls it does not change; one that has ended since, it does not start.
      const domain = known?.domain ?? (await daemon.find(vm))
      if (domain === undefined) throw new NeverStarted({ type: 'GuestGone', vm })
      const libvirt = await daemon.libvirt()
      const resuming = early === undefined ? libvirt.call(procedures.resume, { domain }) : undefined
      // Its mark is the same before and behind that.
      const looking = look(vm)
      looking.catch(() => {})
      try {
        await resuming
      } catch (error) {
        if (!isCode(error, Code.operationInvalid) && !isCode(error, Code.noDomain)) throw error
        // libvirt has not started it by this call: it runs already, or does not at all.
        const state = (await look(vm))?.state
        if (state === undefined) throw new NeverStarted({ type: 'GuestGone', vm }, { cause: error })
        if (state !== 'running') throw error
      }
      const running = early ?? { runningAt: clock.now() }
      const mark = (await looking)?.mark
      if (mark?.persistentXml !== undefined)
        await libvirt.call(procedures.define, { xml: mark.persistentXml, flags: 0 })
      if (mark !== undefined)
        await libvirt.call(procedures.setMetadata, {
          domain,
          type: MetadataIs.element,
          metadata: undefined,
          key: undefined,
          uri: MARK_NAMESPACE,
          flags: Affects.live,
        })
      const folder = folderOf(guests, vm)
      if (early !== undefined) await letGo(folder)
      await keepImages(folder)
      return running
    },

    release: async (vm) => {
      const { here, job } = await lookWithJob(vm)
      if (here !== undefined) await endSent(here, job)
      const folder = folderOf(guests, vm)
      // What is still defined here could be started here again, while the guest runs where it is defined now.
      const [left] = await Promise.all([
        daemon.find(vm),
        letGo(folder),
        disown(folder),
        noteLeft(folder),
      ])
      if (left !== undefined) await undefine(left)
    },

    resume,

    clear: async (vm) => {
      const here = await look(vm)
      // D6: a copy without its mark has run, or may have.
      const mayHaveRun = here?.state !== 'receiving' && here?.state !== 'loaded'
      if (here !== undefined && (here.mark === undefined || mayHaveRun)) return
      if (here !== undefined) await daemon.end(here.domain)
      await letGo(folderOf(guests, vm))
      await dropImages(folderOf(guests, vm))
    },

    close: daemon.close,
  }
}

const GO_ON_MS = 200

const bytesIn = (
  job: { readonly numbers: readonly Parameter[] } | undefined,
): number | undefined => {
  const found = job?.numbers.find(({ field }) => field === 'data_processed')?.value
  return found === undefined ? undefined : Number(found)
}

const GONE_MS = 20_000
const LOOK_AGAIN_MS = 20

/** Ends a migration that is under way, and waits until libvirt has no job left. */
async function stopCopying(daemon: Daemon, { domain, state }: Looked): Promise<void> {
  const { clock } = daemon
  const began = clock.elapsed()
  let isTold = state !== 'running'
  while ((await daemon.jobOn(domain)) !== undefined) {
    if (clock.elapsed() - began > GONE_MS)
      throw new Error(`libvirtd does not end the migration of ${domain.name}`)
    // One that is through has no more to end than its connection; one that is not, is told once that is seen.
    if (!isTold || clock.elapsed() - began > PATIENCE_MS) {
      isTold = true
      const libvirt = await daemon.libvirt()
      await unlessGone(() => libvirt.call(procedures.abortJob, { domain })).catch(() => {})
    }
    await clock.sleep(LOOK_AGAIN_MS)
  }
}

const PATIENCE_MS = 500

import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { decode, encode } from '@ferry/schemas/cloud-event'
import { parse } from '@ferry/schemas/parse'
import type { Event } from '@ferry/schemas/event'
import type { Policy } from '@ferry/schemas/policy'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { markIn } from '@ferry/events/log/watermark-file'
import { isFactName } from '@ferry/events/phases'
import type { Say } from '@ferry/events/say'
import type { Watermark } from '@ferry/events/watermark'
import type { Dial } from '../dial.ts'
import { checkDepth, folderOf } from '../folders.ts'
import type { Move } from '../move.ts'
import type { HostFile } from '../settings.ts'
import type { TransferPort } from '../transfer/port.ts'
import type { Fact } from '../voice.ts'
import { reach } from './reach.ts'
import type { Mover, Outcome } from './reach.ts'
import { takeLeave } from './visitors.ts'
import { ToAgent, filesIn } from './words.ts'
import type { ToMover } from './words.ts'

/**
 * What a host does for one migration runs in a process of its own, which outlives the agent: `kill -9` of an agent, or
 * its upgrade, neither breaks a copy nor keeps a guest paused. The next agent finds those that its predecessor left.
 *
 *     movers/<vm>/mover.sock    where it is reached      mover.pid    watermark
 *     movers/.<random>/         the same of one that has nothing to move yet
 */
export type Movers = {
  /** From now on: whose visitors are handed over. */
  readonly open: (port: TransferPort) => void
  /**
   * Has a mover carry the command out, or waits for the one that is at it already.
   *
   * @param signal stops it, unless it is the agent that ends: then the mover goes on.
   * @param dial what it keeps to, also when it was begun with something else.
   */
  readonly carryOut: (command: Move, signal: AbortSignal, dial?: Dial) => Promise<Fact | undefined>
  /** Another command is about this guest: what moves it is out of date. */
  readonly stop: (vm: string) => Promise<void>
  /** A recovery says what becomes of the guests: nobody else may. */
  readonly stopAll: () => Promise<void>
  readonly letGo: () => void
}

export type MoversEdges = {
  readonly settings: HostFile
  readonly logLevel: string
  readonly watermark: Watermark
  readonly clock: Clock
  readonly say: Say
  /** The agent's own. */
  readonly signal: AbortSignal
}

/** With what happens when it has ended: what it saw is remembered, and nothing of it is left. */
type Held = Mover & { readonly over: Promise<Outcome | undefined> }

/** One that has nothing to move yet. A folder's name with a dot is no guest's (`folders.ts`). */
type AtHand = {
  readonly child: ChildProcess
  readonly folder: string
  /** Resolves when it can be reached there. */
  readonly isOpen: Promise<void>
}

const PROGRAM = join(import.meta.dirname, 'mover.mjs')
const AT_HAND_BYTES = 8
const BEGIN_MS = 60_000
const STOP_MS = 15_000
const SWITCHED_MS = 700

/** A mover ended, and nobody knows what it had done: the log does, and what it leaves undone is begun again. */
class MoverDied extends Error {
  override readonly name = 'MoverDied'

  constructor() {
    super('the process that moved the guest ended without an answer')
  }
}

export async function openMovers(edges: MoversEdges): Promise<Movers> {
  const { settings, logLevel, watermark, clock, say, signal: leaving } = edges
  const { bandwidthBytesPerSecond: limit } = settings
  const root = join(settings.stateDirectory, 'movers')
  checkDepth(root)
  await mkdir(root, { recursive: true, mode: 0o700 })
  const present = new Map<string, Held>()
  let isLettingGo = false
  let port: TransferPort | undefined
  let spare: AtHand | undefined

  /** What a mover that has ended saw of the log is what this host has seen of it. */
  const bury = async (folder: string): Promise<void> => {
    const mark = await markIn(filesIn(folder).watermark)
    if (mark !== undefined && mark.life === watermark.present()?.life) {
      watermark.seen(mark)
      watermark.keep()
      await watermark.sync()
    }
    await rm(folder, { recursive: true, force: true })
  }
  const hold = (mover: Mover): Held => {
    const over = mover.ended.then(async (outcome) => {
      if (isLettingGo) return outcome
      if (outcome === undefined) await mover.kill()
      try {
        await bury(mover.folder)
      } finally {
        // What cannot be read now is read before the next one of this guest begins.
        present.delete(mover.folder)
        share()
      }
      return outcome
    })
    over.catch((error: unknown) => say.error({ err: error }, 'what a mover left cannot be read'))
    const held = { ...mover, over }
    present.set(mover.folder, held)
    share()
    return held
  }
  /** The host's limit is shared out evenly. */
  const share = () => {
    if (limit === undefined) return
    const bandwidthBytesPerSecond = limit / present.size
    for (const mover of present.values()) mover.say({ bandwidthBytesPerSecond })
  }
  const stopped = async (mover: Held): Promise<void> => {
    mover.say({ stop: true })
    await within(clock, STOP_MS, 'its end', mover.ended).catch(() => mover.kill())
    await mover.over
  }

  const born = (): AtHand => {
    const folder = join(root, `.${randomBytes(AT_HAND_BYTES).toString('hex')}`)
    const child = fork(PROGRAM, [settings.stateDirectory], {
      // Signals for the agent's terminal or process group are not for it.
      detached: true,
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      execArgv: [],
    })
    child.on('error', (error) => say.error({ err: error }, 'a mover cannot be started'))
    const isOpen = new Promise<void>((resolve, reject) => {
      child.on('message', (message) => {
        try {
          const word = parse(ToAgent, message, 'what a mover says')
          if ('open' in word) resolve()
          else if (port !== undefined) attend(child, port, word)
        } catch (error) {
          // It was started from other sources than this agent: they are being upgraded.
          say.error({ err: error }, 'a mover is not understood')
          child.kill('SIGKILL')
        }
      })
      child.once('exit', () => {
        reject(new MoverDied())
        // Where it had an order, that folder has the guest's name.
        rm(folder, { recursive: true, force: true }).catch((error: unknown) =>
          say.warn({ err: error, folder }, 'what a mover left cannot be removed'),
        )
      })
    })
    isOpen.catch(() => {})
    tell(child, { birth: { settings, logLevel, folder } })
    child.unref()
    child.channel?.unref()
    return { child, folder, isOpen }
  }
  /** One that is ready is kept at hand: to start a process takes longer than to copy a small guest. */
  const keepSpare = () => {
    if (!leaving.aborted && present.size === 0 && !isUsable(spare)) spare = born()
  }
  /** Not while the guest that has just been sent is to be started on another host: that may need the processor now. */
  let forgetSpare = () => {}
  const keepSpareLater = () => {
    forgetSpare()
    if (!isLettingGo) forgetSpare = clock.after(SWITCHED_MS, keepSpare)
  }
  const takeSpare = () => {
    const mover = isUsable(spare) ? spare : born()
    spare = undefined
    return mover
  }

  const begin = async (folder: string, command: string, signal: AbortSignal): Promise<Held> => {
    const mark = watermark.present()
    if (mark === undefined) throw new Error('this host has seen nothing of the log yet')
    const { child, folder: atFirst, isOpen } = takeSpare()
    const bandwidth =
      limit === undefined ? {} : { bandwidthBytesPerSecond: limit / (present.size + 1) }
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(new MoverDied()), { once: true })
    })
    try {
      await Promise.race([within(clock, BEGIN_MS, 'the beginning of a mover', isOpen), aborted])
      await bury(folder)
      await rename(atFirst, folder)
      tell(child, { order: { command, mark, ...bandwidth } })
      const mover = await reach(folder, clock)
      if (mover === undefined) throw new MoverDied()
      return hold(mover)
    } catch (error) {
      child.kill('SIGKILL')
      signal.throwIfAborted()
      throw error
    }
  }

  const watched = async (mover: Held, signal: AbortSignal, dial?: Dial, begunWith?: Policy) => {
    const forget = dial?.onTurn(begunWith, async (policy) => {
      if (mover.hearsPolicy) mover.say({ policy })
    })
    try {
      return await outcomeOf(mover, signal)
    } finally {
      forget?.()
    }
  }
  const outcomeOf = async (mover: Held, signal: AbortSignal) => {
    const aborted = new Promise<'aborted'>((resolve) => {
      if (signal.aborted) resolve('aborted')
      signal.addEventListener('abort', () => resolve('aborted'), { once: true })
    })
    const outcome = await Promise.race([mover.over, aborted])
    if (outcome !== 'aborted') return outcome
    if (!leaving.aborted) await stopped(mover)
    return signal.throwIfAborted()
  }

  for (const name of await readdir(root)) {
    const folder = join(root, name)
    const mover = await reach(folder, clock)
    if (mover === undefined) await bury(folder)
    else hold(mover)
    say.info({ folder, isAlive: mover !== undefined }, 'a mover of the agent before')
  }

  return {
    open: (its) => {
      port = its
      keepSpare()
    },
    carryOut: async (command, signal, dial) => {
      const text = encode(command)
      const policy = command.type === 'Perform' ? command.data.policy : undefined
      const folder = folderOf(root, command.vm)
      const there = present.get(folder)
      try {
        if (there !== undefined && !isSame(there.command, command)) await stopped(there)
        else if (there !== undefined) {
          const outcome = await watched(there, signal, dial)
          if (outcome !== undefined) return factIn(outcome.fact)
        }
        signal.throwIfAborted()
        const outcome = await watched(await begin(folder, text, signal), signal, dial, policy)
        if (outcome === undefined) throw new MoverDied()
        return factIn(outcome.fact)
      } finally {
        keepSpareLater()
      }
    },
    stop: async (vm) => {
      const there = present.get(folderOf(root, vm))
      if (there !== undefined) await stopped(there)
    },
    stopAll: async () => {
      await Promise.all([...present.values()].map(stopped))
    },
    letGo: () => {
      isLettingGo = true
      forgetSpare()
      for (const mover of present.values()) mover.letGo()
      spare?.child.kill()
    },
  }
}

const tell = (child: ChildProcess, message: ToMover) => void child.send(message, () => {})

const isAlive = ({ connected, exitCode, signalCode }: ChildProcess): boolean =>
  connected && exitCode === null && signalCode === null

const isUsable = (mover: AtHand | undefined): mover is AtHand =>
  mover !== undefined && isAlive(mover.child)

/** Does at the port what a mover asks for. */
function attend(child: ChildProcess, port: TransferPort, word: ToAgent): void {
  if ('expect' in word) {
    const { transfer, attempt, expiresAt } = word.expect
    port.expect(transfer, attempt, expiresAt)
  }
  if ('receive' in word)
    port.receive(word.receive, (visit) => {
      const left = takeLeave(visit)
      if (left === undefined || !isAlive(child)) return void visit.stream.destroy()
      child.send({ visit: left.handed }, left.socket, (error) => {
        if (error !== null) left.socket.destroy()
      })
    })
  if ('used' in word) port.used(word.used)
  if ('forget' in word) port.forget(word.forget)
  if ('refused' in word) port.refused(word.refused)
}

function isSame(text: string, command: Move): boolean {
  const event = eventIn(text)
  return (
    event?.type === command.type &&
    event.vm === command.vm &&
    event.data.admission === command.data.admission
  )
}

function eventIn(text: string) {
  const decoded = decode(text)
  return decoded.is === 'event' ? decoded.event : undefined
}

const isFact = (event: Event): event is Fact => isFactName(event.type)

function factIn(text: string | undefined): Fact | undefined {
  if (text === undefined) return undefined
  const event = eventIn(text)
  if (event === undefined || !isFact(event))
    throw new Error(`a mover answered with something that is no fact: ${text}`)
  return event
}

import { mkdir, rm } from 'node:fs/promises'
import { Socket } from 'node:net'
import { join } from 'node:path'
import { decode, encode } from '@ferry/schemas/cloud-event'
import { parse } from '@ferry/schemas/parse'
import { systemClock as clock, within } from '@ferry/events/clock'
import { watermarkFile } from '@ferry/events/log/watermark-file'
import { openWitness } from '@ferry/events/log/witness'
import { isCommand } from '@ferry/events/migration'
import { sayOnStderr } from '@ferry/events/say'
import type { Mark, Watermark } from '@ferry/events/watermark'
import { openDaemon } from '../drivers/libvirt/daemon.ts'
import { libvirtMoves } from '../drivers/libvirt/moves.ts'
import { openMonitors } from '../drivers/qemu/monitors.ts'
import { qemuMoves } from '../drivers/qemu/moves.ts'
import { xenMoves } from '../drivers/xen/moves.ts'
import { libxlHostOf } from '../drivers/libxl/host-of.ts'
import { libxlMoves } from '../drivers/libxl/moves.ts'
import { openNotes } from '../drivers/xen/notes.ts'
import { openXl } from '../drivers/xen/xl.ts'
import { dialFor } from '../dial.ts'
import type { Dial } from '../dial.ts'
import type { Moves } from '../driver.ts'
import { connectToLog, mayOptimize, stayReady } from '../edges.ts'
import type { MovingHands } from '../hands.ts'
import { hostKey } from '../keys.ts'
import { isMove, move } from '../move.ts'
import type { Move } from '../move.ts'
import { isLibxl, libvirtPlaces, xenPlaces } from '../settings.ts'
import type { HostFile } from '../settings.ts'
import { makePace } from '../transfer/pace.ts'
import { tlsWire } from '../transfer/tls-wire.ts'
import { makeVoice } from '../voice.ts'
import { openDoor } from './door.ts'
import type { Door } from './door.ts'
import { openFarPort } from './far-port.ts'
import { rehearse } from './rehearse.ts'
import { ToMover, filesIn } from './words.ts'
import type { Birth, Order, ToAgent } from './words.ts'

/**
 * One process that moves one guest's image, out of this host or into it, and then ends. It does what an agent would do
 * with the same command, by the same rules, on a connection of its own to the log: so it goes on when its agent dies, and
 * the next agent reaches it by its socket.
 *
 * - M1 It begins only when an agent has come to its socket: nobody could stop one of which no agent knows.
 * - M2 It outlives the agent that started it unless it still needs a visitor from that one's port.
 * - M3 The answer stands in the log before any agent hears of it.
 */
/** How long an agent may take from its order to coming. */
const VISIT_MS = 10_000
const ANSWER_MS = 60_000
/** A copy that takes longer gains more from better code than its making costs. */
const LONG_MS = 250
/** To end costs a process of this size milliseconds of a core that the guest may need now. */
const LINGER_MS = 400

/** Why a mover ends without an answer. */
class Stopped extends Error {
  override readonly name = 'Stopped'
}

const stop = new AbortController()
const end = (why: string) => stop.abort(new Stopped(why))

type Heard = { birth: (birth: Birth) => void; order: (order: Order) => void }
const heard: Heard = { birth: () => {}, order: () => {} }
const born = new Promise<Birth>((resolve) => {
  heard.birth = resolve
})
const ordered = new Promise<Order>((resolve) => {
  heard.order = resolve
})
const ended = new Promise<never>((_, reject) => {
  stop.signal.addEventListener('abort', () => reject(stop.signal.reason))
})
ended.catch(() => {})

const tell = (message: ToAgent) => {
  if (process.connected) process.send?.(message, () => {})
}
const port = openFarPort(tell, () => end('the agent whose port it needs is gone'))
let isBegun = false

process.on('message', (message, handle) => {
  const word = parse(ToMover, message, 'what the agent says')
  if ('birth' in word) heard.birth(word.birth)
  if ('order' in word) heard.order(word.order)
  if ('visit' in word && handle instanceof Socket) port.handed(word.visit, handle)
})
process.once('disconnect', () => {
  if (isBegun) port.cutOff()
  else end('its agent is gone, and it had not begun')
})
process.once('SIGTERM', () => end('it was told to end'))

stayReady()
const { settings, logLevel, folder } = await born
const say = sayOnStderr(`mover ${settings.host}`, logLevel)
const edges = { clock, say, signal: stop.signal }
const pace = makePace(clock)
let isOrdered = false
const tasked = ordered.then(({ command: text, mark, bandwidthBytesPerSecond }): Task => {
  isOrdered = true
  pace.limit(bandwidthBytesPerSecond)
  const command = moveIn(text)
  return command.type === 'Perform'
    ? { command, mark, dial: dialFor(command, say) }
    : { command, mark }
})
tasked.catch(() => {})
try {
  // All that can be there before anybody waits for it.
  await mkdir(folder, { mode: 0o700 })
  const [door, watermark] = await Promise.all([
    openDoor(folder, ordered, (word) => {
      if ('stop' in word) end('an agent told it to stop')
      else if ('policy' in word) void tasked.then(({ dial }) => dial?.turn(word.policy))
      else pace.limit(word.bandwidthBytesPerSecond)
    }),
    watermarkFile(filesIn(folder).watermark, edges),
  ])
  tell({ open: true })
  const connection = await connectToLog(settings, `mover ${settings.host}`, stop.signal)
  const key = await hostKey(join(settings.stateDirectory, 'host.key'))
  const driver = movesOn(settings)
  const wanted = new AbortController()
  void ordered.then(() => wanted.abort())
  const signal = AbortSignal.any([stop.signal, wanted.signal])
  const isReady = Promise.all([rehearse({ key, clock, signal }), driver.getReady?.()])
  await Promise.race([isReady, ordered]).catch((error: unknown) => {
    say.debug({ err: error }, 'not as ready as could be')
  })
  // What has been rehearsed runs as it is now; a paused guest must not wait for a compiler.
  mayOptimize(false)
  const task = await Promise.race([tasked, ended])
  clock.after(LONG_MS, () => mayOptimize(true))
  await carryOut(task, { log: connection.log, key, driver, door, watermark })
} catch (error) {
  if (!(error instanceof Stopped)) say.error({ err: error }, 'the mover ends without an answer')
  else say.debug({ why: error.message }, 'the mover ends without an answer')
  process.exitCode = 1
  // That of a guest is left for the next agent to look into.
  if (!isOrdered) await rm(folder, { recursive: true, force: true })
}
process.exit()

type Task = { readonly command: Move; readonly mark: Mark; readonly dial?: Dial }

type Tools = Pick<MovingHands, 'log' | 'key' | 'driver'> & {
  readonly door: Door
  readonly watermark: Watermark
}

async function carryOut(
  { command, mark, dial }: Task,
  { log, key, driver, door, watermark }: Tools,
): Promise<void> {
  stop.signal.throwIfAborted()
  const { host } = settings
  const { vm, migration, attempt, type } = command
  // While the agent is on its way this is written down, and compared with the log.
  const marked = watermark.begin(mark)
  marked.catch(() => {})
  const comparing = openWitness({
    ...edges,
    log,
    me: { host },
    watermark,
    settleMs: 0,
    recovered: async () => end('what becomes of this guest was said by a recovery of the log'),
  })
  comparing.catch(() => {})
  await within(
    clock,
    VISIT_MS,
    'an agent coming to the socket',
    Promise.race([door.visited, ended]),
  )
  isBegun = true
  if (!process.connected) port.cutOff()
  say.info({ vm, migration, attempt, type }, 'carrying out')

  const [witness] = await Promise.all([comparing, marked])
  const trust = await witness.well(stop.signal)
  const signal = AbortSignal.any([stop.signal, trust])
  const hands = {
    ...edges,
    host,
    log: witness.log,
    voice: makeVoice({ ...edges, host, log: witness.log, signal }),
    driver,
    key,
    wire: tlsWire,
    port,
    pace,
    remembered: witness.remembered,
  }
  const fact = await move(command, hands, signal, dial)
  if (fact !== undefined) {
    await witness.remembered()
    await witness.log.append(fact, { patienceMs: ANSWER_MS })
  }
  say.info({ vm, migration, attempt, type, answer: fact?.type }, 'answered')
  // Whoever is ordered next may need what this one holds: QEMU speaks to one visitor at a time.
  await driver.close()
  await door.over(fact && encode(fact))
  await clock.sleep(LINGER_MS, stop.signal).catch(() => {})
}

/** The guests of this host, for one who only moves them. */
function movesOn(settings: HostFile): Moves {
  if (settings.driver === 'libvirt') {
    const places = libvirtPlaces(settings)
    if (isLibxl(settings)) return libxlMoves(libxlHostOf(settings, clock), places.guests)
    return libvirtMoves(openDaemon(places.socket, clock), places)
  }
  if (settings.driver === 'xen') {
    const { resumer, guests } = xenPlaces(settings)
    return xenMoves(openXl({ clock, resumer }), openNotes(guests))
  }
  const guests = join(settings.stateDirectory, 'guests')
  return qemuMoves(openMonitors({ guests, clock, monitor: 'mover' }))
}

function moveIn(text: string): Move {
  const decoded = decode(text)
  if (decoded.is !== 'event' || !isCommand(decoded.event) || !isMove(decoded.event))
    throw new Error(`not a command to move a guest: ${text}`)
  return decoded.event
}

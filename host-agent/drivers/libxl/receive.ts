import { once } from 'node:events'
import { createConnection } from 'node:net'
import type { Socket } from 'node:net'
import { Writable } from 'node:stream'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { CopyFailed } from '../../driver.ts'
import type { LoadedByHypervisor, ReceiveOrder } from '../../driver.ts'
import { procedures } from '../libvirt/procedures.ts'
import { LibvirtError } from '../libvirt/rpc.ts'
import type { Libvirt } from '../libvirt/rpc.ts'
import { MigrateFlag } from '../libvirt/words.ts'
import type { LibxlHost } from './host.ts'
import type { LibxlNote } from './notes.ts'

/**
 * The target's half: libvirtd has listened since `prepare`, and loads what this process brings. Its Finish waits until all
 * is loaded, and leaves the guest paused; it hangs on no process then, and no job is held.
 */
export async function receive(
  note: LibxlNote,
  order: ReceiveOrder,
  { clock, daemon, notes }: LibxlHost,
): Promise<LoadedByHypervisor> {
  const { signal } = order
  signal.throwIfAborted()
  const libvirt = await daemon.fresh()
  let visited: Promise<Socket> | undefined
  // Whoever is on the way to libvirtd brings it the beginning first: it dies of one that comes and goes without a word.
  const hangUp = async () => (await visited?.catch(() => undefined))?.destroy()
  const stop = () => void hangUp()
  signal.addEventListener('abort', stop, { once: true })
  void libvirt.closed.then(stop)
  const front = begunLate(() => {
    // libvirtd takes whoever comes, one beside the other: if another process has been it, nobody knows what it brought.
    visited = notes.write({ ...note, isVisited: true }).then(() => visit(note.port, clock))
    return visited
  })
  try {
    await order.fill(front)
    await finish(note.vm, libvirt, 'loaded')
    return { loadedAt: clock.now() }
  } catch (error) {
    signal.throwIfAborted()
    if (error instanceof LibvirtError)
      throw new CopyFailed({ type: 'HypervisorFailed', message: error.message }, { cause: error })
    throw error
  } finally {
    signal.removeEventListener('abort', stop)
    await hangUp()
    libvirt.close()
  }
}

/**
 * How an image begins: libxl's header, and the record with which libxl hands over to its helper. libvirtd dies of an image
 * that ends before that (`hang-up.ts` says why); of one that ends later it frees what it has loaded.
 */
const opening = Buffer.concat([
  Buffer.from('LibxlFmt'),
  Buffer.from([0, 0, 0, 2]),
  Buffer.from([0, 0, 0, 0]),
  Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]),
])

/** Takes an image for a hypervisor that is visited when so much of it has come that it may end. */
function begunLate(visited: () => Promise<Socket>): Writable {
  let held: Buffer = Buffer.alloc(0)
  let hypervisor: Socket | undefined
  const front = new Writable({
    write: (chunk: Buffer, _, done) => {
      if (hypervisor !== undefined) return void hypervisor.write(chunk, done)
      held = Buffer.concat([held, chunk])
      if (held.length < opening.length) return done()
      visited().then((socket) => {
        hypervisor = socket
        socket.write(held, done)
      }, done)
      return undefined
    },
    final: (done) =>
      done(hypervisor === undefined ? new Error('the image ended before it had begun') : undefined),
  })
  front.on('error', () => {})
  return front
}

/** Once all bytes are in, loading the rest takes milliseconds; device models of large guests take seconds. */
const LOAD_MS = 60_000

/**
 * libvirt's Finish: `loaded` when all of it is there, and the guest stays paused; else the copy ends, and what libvirtd says
 * to that is always an error.
 */
export async function finish(vm: string, libvirt: Libvirt, how: 'loaded' | 'ended'): Promise<void> {
  await libvirt.call(
    procedures.finish,
    {
      parameters: [{ field: 'destination_name', is: 'string', value: vm }],
      cookie: '',
      flags: MigrateFlag.live | MigrateFlag.paused,
      isCancelled: how === 'loaded' ? 0 : 1,
    },
    LOAD_MS,
  )
}

/** It is on this host; a libvirtd that lets nobody in is stuck. */
const VISIT_MS = 30_000

async function visit(port: number, clock: Clock): Promise<Socket> {
  const hypervisor = createConnection({ host: '127.0.0.1', port, allowHalfOpen: true })
  try {
    await within(clock, VISIT_MS, 'libvirtd letting the image in', once(hypervisor, 'connect'))
    hypervisor.on('error', () => {})
    // It says nothing.
    return hypervisor.resume()
  } catch (cause) {
    hypervisor.destroy()
    throw new CopyFailed({ type: 'AgentRestarted' }, { cause })
  }
}

const GONE_MS = 20_000

/** libvirtd stops listening when somebody has come, and not before: Finish alone leaves it listening for ever. */
export async function visitInVain(port: number, clock: Clock): Promise<void> {
  const socket = createConnection({ host: '127.0.0.1', port })
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  socket.on('error', () => {}).resume()
  socket.end(opening)
  try {
    await within(clock, GONE_MS, 'libvirtd seeing that nothing comes', closed)
  } finally {
    socket.destroy()
  }
}

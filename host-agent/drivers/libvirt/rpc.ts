import { createConnection } from 'node:net'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import {
  KEEPALIVE_PROGRAM,
  PROGRAM,
  PROTOCOL_VERSION,
  QEMU_PROGRAM,
  events,
  failure,
  procedures,
} from './procedures.ts'
import type { EventName, EventOf, Procedure } from './procedures.ts'
import { decode, encode, int, struct, uint } from './xdr.ts'
import type { Codec } from './xdr.ts'

/**
 * libvirt's own protocol over its unix socket, as its client library speaks it: packets with their length in front and a
 * head of six numbers; replies come in any order and carry the serial of the call. https://libvirt.org/kbase/internals/rpc.html
 */
export type Libvirt = {
  /**
   * Calls one procedure.
   *
   * @param limitMs the call's end; `unlimited` only where something else watches over it.
   * @throws {LibvirtError} with the daemon's code and words, {ConnectionLost}, or `Overdue`.
   */
  readonly call: <Takes, Gives>(
    procedure: Procedure<Takes, Gives>,
    takes: Takes,
    limitMs?: number | 'unlimited',
  ) => Promise<Gives>
  /** Called with every such event from the moment that this resolves. */
  readonly on: <Name extends EventName>(
    name: Name,
    listener: (event: EventOf<Name>) => void,
  ) => Promise<void>
  readonly closed: Promise<void>
  readonly isClosed: () => boolean
  /** The connection's file descriptor, for a process that is to keep it open. */
  readonly descriptor: () => number | undefined
  readonly close: () => void
}

/** The daemon's "no". */
export class LibvirtError extends Error {
  override readonly name = 'LibvirtError'
  readonly procedure: number
  readonly code: number

  constructor(procedure: number, code: number, said: string) {
    super(said)
    this.procedure = procedure
    this.code = code
  }
}

export class ConnectionLost extends Error {
  override readonly name = 'ConnectionLost'

  constructor(path: string, options?: ErrorOptions) {
    super(`the connection to libvirtd at ${path} is gone`, options)
  }
}

/** What came is not libvirt's protocol, or not this version of it. */
class Nonsense extends Error {
  override readonly name = 'Nonsense'
}

const LENGTH_BYTES = 4
const head = struct({
  program: uint,
  version: uint,
  procedure: int,
  type: int,
  serial: uint,
  status: int,
})
const HEAD_BYTES = 24
const SHORTEST = LENGTH_BYTES + HEAD_BYTES
/** libvirt's own limit for a message, with its length. */
const LONGEST = 32 * 1024 ** 2 + LENGTH_BYTES

const types = { call: 0, reply: 1, message: 2 } as const
const OK = 0
const keepalive = { ping: 1, pong: 2 } as const

/** A daemon that does not answer within this long is stopped or stuck. */
const ANSWER_MS = 30_000

const NO_AUTH = 0
const POLKIT = 2

type Waiting = {
  readonly program: number
  readonly procedure: number
  readonly resolve: (payload: Buffer) => void
  readonly reject: (error: Error) => void
}

/** Which of the hypervisors behind a libvirtd is meant. */
export type HypervisorUri = 'qemu:///system' | 'xen:///system'

/** Connects, authenticates, and opens the hypervisor behind the socket. */
export async function connectLibvirt(
  path: string,
  clock: Clock,
  uri: HypervisorUri = 'qemu:///system',
): Promise<Libvirt> {
  const socket = createConnection(path)
  const waiting = new Map<number, Waiting>()
  const listeners: { readonly [Name in EventName]: Set<(event: EventOf<Name>) => void> } = {
    lifecycle: new Set(),
    round: new Set(),
    monitor: new Set(),
  }
  let serial = 0
  let rest: Buffer = Buffer.alloc(0)
  let isClosed = false
  let end: () => void = () => {}
  const closed = new Promise<void>((resolve) => {
    end = resolve
  })

  const send = (
    fields: { program: number; procedure: number; type: number; serial: number },
    payload: Buffer,
  ) => {
    const bytes = encode(head, { ...fields, version: PROTOCOL_VERSION, status: OK })
    const length = encode(uint, LENGTH_BYTES + bytes.length + payload.length)
    socket.write(Buffer.concat([length, bytes, payload]))
  }
  const tell = <Name extends EventName>(
    name: Name,
    gives: Codec<EventOf<Name>>,
    payload: Buffer,
  ) => {
    const event = decode(gives, payload)
    for (const listener of listeners[name]) listener(event)
  }
  const hear = (program: number, number: number, payload: Buffer) => {
    const { lifecycle, round, monitor } = events
    const isIt = (event: { program: number; number: number }) =>
      event.program === program && event.number === number
    // What is not known was not asked for: a newer daemon may have more to say.
    if (isIt(lifecycle)) tell('lifecycle', lifecycle.gives, payload)
    if (isIt(round)) tell('round', round.gives, payload)
    if (isIt(monitor)) tell('monitor', monitor.gives, payload)
  }
  const take = (packet: Buffer) => {
    const { program, version, procedure, type, serial, status } = decode(
      head,
      packet.subarray(0, HEAD_BYTES),
    )
    const payload = packet.subarray(HEAD_BYTES)
    if (version !== PROTOCOL_VERSION)
      throw new Nonsense(`program ${program} speaks version ${version}`)
    if (program === KEEPALIVE_PROGRAM) {
      if (procedure === keepalive.ping)
        send(
          { program, procedure: keepalive.pong, type: types.message, serial: 0 },
          Buffer.alloc(0),
        )
      return
    }
    if (program !== PROGRAM && program !== QEMU_PROGRAM)
      throw new Nonsense(`there is no program ${program}`)
    if (type === types.message) return hear(program, procedure, payload)
    const asked = waiting.get(serial)
    if (type !== types.reply || asked === undefined)
      throw new Nonsense(`a packet of type ${type} with serial ${serial}, which nobody waits for`)
    const { resolve, reject } = asked
    if (procedure !== asked.procedure || program !== asked.program)
      throw new Nonsense(`procedure ${procedure} of ${program} answers ${asked.procedure}`)
    const said = status === OK ? undefined : decode(failure, payload)
    waiting.delete(serial)
    if (said === undefined) return resolve(payload)
    const { code, message = `error ${code}` } = said
    return reject(new LibvirtError(procedure, code, message))
  }
  const gone = (cause?: Error) => {
    if (isClosed) return
    isClosed = true
    socket.destroy()
    for (const { reject } of waiting.values()) reject(new ConnectionLost(path, cause && { cause }))
    waiting.clear()
    end()
  }
  socket.on('data', (chunk: Buffer) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    try {
      while (rest.length >= LENGTH_BYTES) {
        const length = rest.readUInt32BE(0)
        if (length < SHORTEST || length > LONGEST) throw new Nonsense(`a packet of ${length} bytes`)
        if (rest.length < length) return
        const packet = rest.subarray(LENGTH_BYTES, length)
        rest = rest.subarray(length)
        take(packet)
      }
    } catch (error) {
      gone(error instanceof Error ? error : new Error(String(error)))
    }
  })
  socket.once('error', gone)
  socket.once('close', () => gone())

  const call: Libvirt['call'] = async (asked, value, limitMs = ANSWER_MS) => {
    const { program = PROGRAM, number, takes, gives } = asked
    if (isClosed) throw new ConnectionLost(path)
    const payload = encode(takes, value)
    serial += 1
    const its = serial
    const answer = new Promise<Buffer>((resolve, reject) => {
      waiting.set(its, { program, procedure: number, resolve, reject })
      send({ program, procedure: number, type: types.call, serial: its }, payload)
    })
    const what = `libvirtd answering procedure ${number}`
    return decode(
      gives,
      await (limitMs === 'unlimited' ? answer : within(clock, limitMs, what, answer)),
    )
  }
  const libvirt: Libvirt = {
    call,
    on: async (name, listener) => {
      listeners[name].add(listener)
      const { event } = events[name]
      const flags = 0
      await (event === undefined
        ? call(procedures.watchMonitor, { domain: undefined, event: undefined, flags })
        : call(procedures.watch, { event, domain: undefined }))
    },
    closed,
    isClosed: () => isClosed,
    descriptor: () => {
      const handle: unknown = Reflect.get(socket, '_handle')
      const fd: unknown =
        typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'fd') : undefined
      return typeof fd === 'number' && fd >= 0 ? fd : undefined
    },
    close: () => gone(),
  }
  try {
    await authenticate(call)
    await call(procedures.connectOpen, { uri, flags: 0 })
    return libvirt
  } catch (error) {
    gone()
    throw error
  }
}

/** Root, and whom polkit or the socket's group let in, need no password; who needs one is told so. */
async function authenticate(call: Libvirt['call']): Promise<void> {
  const { types: offered } = await call(procedures.authentications, undefined)
  if (offered.length === 0 || offered.includes(NO_AUTH)) return
  if (!offered.includes(POLKIT))
    throw new Nonsense(
      'it asks for a password (SASL), and none is known: let its unix socket do without',
    )
  await call(procedures.authenticateByPolkit, undefined)
}

import { createConnection } from 'node:net'
import { Type } from 'typebox'
import { parse } from '@ferry/schemas/parse'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { readLines } from '../../lines.ts'

/**
 * QEMU's monitor protocol: one JSON object a line, over a unix socket. Replies come in the order of the commands;
 * events come between them. https://www.qemu.org/docs/master/interop/qmp-spec.html
 */
export type Qmp = {
  /** Runs one command. @throws {QmpError} with QEMU's own class and words, or {QmpClosed}. */
  readonly execute: (command: string, args?: object) => Promise<unknown>
  /** Called with every event from now on. @returns how to stop. */
  readonly onEvent: (listener: (event: QmpEvent) => void) => () => void
  /** Resolves when the connection is gone: QEMU ended, or somebody closed it. */
  readonly closed: Promise<void>
  readonly isClosed: () => boolean
  readonly close: () => void
}

export type QmpEvent = {
  readonly event: string
  readonly data: { readonly [field: string]: unknown }
  /** By the clock of the host, in milliseconds since 1970, with QEMU's microseconds. */
  readonly at: number
}

export class QmpError extends Error {
  override readonly name = 'QmpError'
  readonly command: string
  readonly errorClass: string
  readonly said: string

  constructor(command: string, errorClass: string, said: string) {
    super(`QEMU refused ${command}: ${said}`)
    this.command = command
    this.errorClass = errorClass
    this.said = said
  }
}

export class QmpClosed extends Error {
  override readonly name = 'QmpClosed'

  constructor(path: string, options?: ErrorOptions) {
    super(`the monitor at ${path} is gone`, options)
  }
}

const Line = Type.Object({
  QMP: Type.Optional(Type.Unknown()),
  return: Type.Optional(Type.Unknown()),
  error: Type.Optional(Type.Object({ class: Type.String(), desc: Type.String() })),
  event: Type.Optional(Type.String()),
  data: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
  timestamp: Type.Optional(Type.Object({ seconds: Type.Number(), microseconds: Type.Number() })),
})

/** A monitor that does not answer within this long is stopped or stuck. */
const ANSWER_MS = 5000

type Waiting = {
  command: string
  resolve: (value: unknown) => void
  reject: (error: Error) => void
}

/** Connects, takes the greeting, and leaves negotiation mode. */
export async function connectQmp(path: string, clock: Clock): Promise<Qmp> {
  const socket = createConnection(path)
  const waiting: Waiting[] = []
  const listeners = new Set<(event: QmpEvent) => void>()
  let isClosed = false
  let end: () => void = () => {}
  const closed = new Promise<void>((resolve) => {
    end = resolve
  })
  let greet: () => void = () => {}
  const greeted = new Promise<void>((resolve, reject) => {
    greet = resolve
    void closed.then(() => reject(new QmpClosed(path)))
  })

  const take = (text: string) => {
    const line = parse(Line, JSON.parse(text), `what ${path} said`)
    if (line.QMP !== undefined) return greet()
    if (line.event !== undefined) {
      const { event, data = {}, timestamp = { seconds: 0, microseconds: 0 } } = line
      const at = timestamp.seconds * 1000 + timestamp.microseconds / 1000
      for (const tell of listeners) tell({ event, data, at })
      return undefined
    }
    const { command = '', resolve, reject } = waiting.shift() ?? {}
    if (line.error !== undefined) reject?.(new QmpError(command, line.error.class, line.error.desc))
    else resolve?.(line.return)
    return undefined
  }
  const gone = (cause?: Error) => {
    if (isClosed) return
    isClosed = true
    socket.destroy()
    for (const { reject } of waiting.splice(0)) reject(new QmpClosed(path, cause && { cause }))
    end()
  }
  readLines(socket, take, gone)
  socket.once('error', gone)
  socket.once('close', () => gone())

  const execute = async (command: string, args?: object): Promise<unknown> => {
    if (isClosed) throw new QmpClosed(path)
    const answer = new Promise<unknown>((resolve, reject) =>
      waiting.push({ command, resolve, reject }),
    )
    socket.write(
      `${JSON.stringify({ execute: command, ...(args === undefined ? {} : { arguments: args }) })}\n`,
    )
    return within(clock, ANSWER_MS, `${path} answering ${command}`, answer)
  }
  try {
    await within(clock, ANSWER_MS, `${path} greeting`, greeted)
    await execute('qmp_capabilities')
  } catch (error) {
    gone()
    throw error
  }
  return {
    execute,
    onEvent: (listener) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    closed,
    isClosed: () => isClosed,
    close: () => gone(),
  }
}

/** The next event that is so, from the call on; who does not want it any more says `forget`. */
export function nextEvent(qmp: Qmp, isIt: (event: QmpEvent) => boolean) {
  let forget = () => {}
  const event = new Promise<QmpEvent>((resolve) => {
    forget = qmp.onEvent((each) => {
      if (isIt(each)) resolve(each)
    })
  })
  return { event, forget: () => forget() }
}

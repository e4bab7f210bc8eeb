import { Type } from 'typebox'
import type { Static } from 'typebox'
import { messages } from '@ferry/schemas/messages'
import { Policy } from '@ferry/schemas/policy'
import { MarkWords } from '@ferry/events/log/watermark-file'
import { HostFile } from '../settings.ts'

/**
 * What an agent and its movers say to each other, in JSON; events in the wire's own form. Over the channel that a mover
 * is born with, only the agent that started it can speak to it: it gives the order, and hands over who comes for an image.
 * Any later agent reaches it by its socket.
 */
const Birth = Type.Object({
  settings: HostFile,
  logLevel: Type.String(),
  /** Its own: the socket by which it is reached, and how far it has seen the log. Ordered to move a guest, it gets that one's name. */
  folder: Type.String(),
})
export type Birth = Static<typeof Birth>

const Order = Type.Object({
  command: Type.String(),
  /** How far the agent has seen the log. */
  mark: MarkWords,
  bandwidthBytesPerSecond: Type.Optional(Type.Number()),
})
export type Order = Static<typeof Order>

/** Comes with the visitor's socket. */
const Handed = Type.Object({
  transfer: Type.String(),
  remoteAddress: Type.String(),
  /** What was read already of what it said behind its greeting: base64. */
  rest: Type.String(),
})
export type Handed = Static<typeof Handed>

export const ToMover = Type.Union([
  Type.Object({ birth: Birth }),
  Type.Object({ order: Order }),
  Type.Object({ visit: Handed }),
])
export type ToMover = Static<typeof ToMover>

/** Who may come to the host's port for the image that is waited for: a `TransferPort` from afar. */
export const ToAgent = Type.Union([
  /** It can be reached by its socket, and says there what it does as soon as it is ordered to. */
  Type.Object({ open: Type.Literal(true) }),
  Type.Object({
    expect: Type.Object({
      transfer: Type.String(),
      attempt: Type.String(),
      expiresAt: Type.Number(),
    }),
  }),
  Type.Object({ receive: Type.String() }),
  Type.Object({ used: Type.String() }),
  Type.Object({ forget: Type.String() }),
  Type.Object({ refused: Type.Omit(messages.ConnectionRefused.data, ['times']) }),
])
export type ToAgent = Static<typeof ToAgent>

/** On the socket, a line each. The mover says first what it does, and last what came of it. */
export const FromMover = Type.Union([
  Type.Object({
    command: Type.String(),
    /** That it can be told of a changed policy; one of an older release cannot. */
    hearsPolicy: Type.Optional(Type.Boolean()),
  }),
  Type.Object({ over: Type.Literal(true), fact: Type.Optional(Type.String()) }),
])
export type FromMover = Static<typeof FromMover>

export const FromAgent = Type.Union([
  Type.Object({ stop: Type.Literal(true) }),
  Type.Object({ bandwidthBytesPerSecond: Type.Number() }),
  Type.Object({ policy: Policy }),
])
export type FromAgent = Static<typeof FromAgent>

/** What stands in a mover's folder. */
export const filesIn = (folder: string) => ({
  socket: `${folder}/mover.sock`,
  pid: `${folder}/mover.pid`,
  watermark: `${folder}/watermark`,
})

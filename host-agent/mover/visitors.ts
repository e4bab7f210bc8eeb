import { Socket } from 'node:net'
import type { Visit } from '../transfer/wire.ts'
import type { Handed } from './words.ts'

/**
 * Visitors of the host's port change the process: the agent has read whom they came for, and the mover that waits for
 * them reads on.
 *
 * Node goes on reading from a socket that it is about to give away, and loses what it reads. It must be told to stop, for
 * which there is no public word; a Node without that one cannot hand anybody over.
 *
 * @returns undefined when the visitor cannot be handed over.
 */
export function takeLeave({
  transfer,
  remoteAddress,
  stream,
}: Visit): { readonly handed: Handed; readonly socket: Socket } | undefined {
  if (!(stream instanceof Socket)) return undefined
  const handle: unknown = Reflect.get(stream, '_handle')
  if (!canStop(handle)) return undefined
  handle.readStop()
  const rest: unknown = stream.read()
  const read = rest instanceof Buffer ? rest.toString('base64') : ''
  return { handed: { transfer, remoteAddress, rest: read }, socket: stream }
}

const canStop = (handle: unknown): handle is { readonly readStop: () => void } =>
  typeof handle === 'object' && handle !== null && 'readStop' in handle

/** As it was before it changed the process. */
export function arrive({ transfer, remoteAddress, rest }: Handed, stream: Socket): Visit {
  stream.on('error', () => {})
  if (rest !== '') stream.unshift(Buffer.from(rest, 'base64'))
  return { transfer, remoteAddress, stream }
}

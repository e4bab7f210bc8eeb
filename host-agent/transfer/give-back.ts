import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/**
 * Gives a buffer's memory back at once; nobody may look at it any more.
 *
 * TLS hands the image over in buffers of 16 KiB, a new one each time, and the garbage collector is called for every
 * few thousand of them: it took half of the processor time of a receiving agent (`DECISIONS.md`, "Buffers are given
 * back"). A buffer that is detached is no garbage.
 */
export function giveBack(buffer: Buffer): void {
  // Small buffers share their memory with others.
  const isItsOwn = buffer.byteOffset === 0 && buffer.byteLength === buffer.buffer.byteLength
  if (isItsOwn) detach?.call(buffer.buffer, 0)
}

type Transfer = (this: ArrayBufferLike, length: number) => ArrayBuffer

const detach = findTransfer()
// At the first one that is detached V8 throws away all that it has optimized for arrays: now, and not while a guest moves.
giveBack(Buffer.from(new ArrayBuffer(1)))

/** `ArrayBuffer.prototype.transfer`: every program has it since Node 22; V8 in Node 20 has it behind a flag. */
function findTransfer(): Transfer | undefined {
  const own: unknown = Reflect.get(ArrayBuffer.prototype, 'transfer')
  if (isTransfer(own)) return own
  setFlagsFromString('--harmony-rab-gsab-transfer')
  const hidden: unknown = runInNewContext('ArrayBuffer.prototype.transfer')
  return isTransfer(hidden) ? hidden : undefined
}

function isTransfer(value: unknown): value is Transfer {
  return typeof value === 'function'
}

import { within } from '@ferry/events/clock'
import { CopyFailed } from '../../driver.ts'
import type { LoadedByHypervisor, ReceiveOrder } from '../../driver.ts'
import { feed } from '../feed.ts'
import { banner, ready } from './handshake.ts'
import { begin, piecesOf } from './other-end.ts'
import type { Xl } from './xl.ts'

/**
 * The target's half: `xl migrate-receive` reads the image from this process, which answers in the source's place. When
 * it asks whether it may start the guest, all is loaded, and it is ended: the guest stands paused as NAME--incoming, hangs
 * on no process, and is started by `activate`. Ended before that, it takes the copy with it.
 */
export async function receive(
  order: ReceiveOrder,
  xl: Xl,
  folder: string,
): Promise<LoadedByHypervisor> {
  const { clock } = xl
  const began = await begin(folder, ['migrate-receive'], ['pipe', 'pipe', 'pipe'], clock)
  const { stdin, stdout } = began.child
  if (stdin === null || stdout === null) throw new Error('Node gave xl no pipes')
  stdin.on('error', () => {})
  const pieces = piecesOf(stdout)
  const stop = () => stdin.destroy()
  const hears = async (words: Buffer, limitMs: number) => {
    const said = await within(
      clock,
      limitMs,
      'the next word of xl',
      readWords(pieces, words.length),
    )
    if (!said.equals(words)) throw failed(began.complaint())
  }
  order.signal.addEventListener('abort', stop, { once: true })
  try {
    order.signal.throwIfAborted()
    await hears(banner, BANNER_MS)
    // It must not hear an end behind the image: it would take it for a source that has gone, and end the copy.
    const hypervisor = feed(stdin)
    void began.ended.then(() => hypervisor.destroy(new Error(began.complaint())))
    await order.fill(hypervisor)
    await hears(ready, LOAD_MS)
    const loadedAt = clock.now()
    await began.kill()
    return { loadedAt }
  } catch (error) {
    stdin.destroy()
    await within(clock, ENDS_MS, 'the end of xl', began.ended).catch(began.kill)
    order.signal.throwIfAborted()
    throw error
  } finally {
    order.signal.removeEventListener('abort', stop)
  }
}

const BANNER_MS = 60_000
/** Once all bytes are in, loading the rest takes milliseconds; device models of large guests take seconds. */
const LOAD_MS = 60_000
const ENDS_MS = 60_000

async function readWords(
  pieces: () => Promise<Buffer | undefined>,
  length: number,
): Promise<Buffer> {
  let said: Buffer = Buffer.alloc(0)
  while (said.length < length) {
    const piece = await pieces()
    if (piece === undefined) return said
    said = Buffer.concat([said, piece])
  }
  return said
}

const failed = (message: string) => new CopyFailed({ type: 'HypervisorFailed', message })

import { createConnection } from 'node:net'
import { within } from '@ferry/events/clock'
import type { Clock } from '@ferry/events/clock'
import { CopyFailed } from '../../driver.ts'
import type { LoadedByHypervisor, ReceiveOrder } from '../../driver.ts'
import { socketsIn } from './copy.ts'
import type { Attached } from './monitors.ts'
import type { Qmp } from './qmp.ts'

/**
 * The target's half: QEMU reads the image from a socket, and says when it has loaded all of it. It is not started, and
 * takes no lock on the disks before it is: until the verdict the source may have to run on.
 */
export async function receive(
  { copy, qmp }: Attached,
  order: ReceiveOrder,
  clock: Clock,
): Promise<LoadedByHypervisor> {
  const path = socketsIn(copy.folder).image
  const loading = watch(qmp, order.signal)
  await qmp.execute('migrate-set-capabilities', {
    capabilities: [
      { capability: 'events', state: true },
      { capability: 'late-block-activate', state: true },
    ],
  })
  await qmp.execute('migrate-incoming', { uri: `unix:${path}` })
  const hypervisor = createConnection(path)
  // Until the source comes nobody else listens, and a QEMU that ends must not take the agent with it.
  hypervisor.on('error', () => {})
  const stop = () => hypervisor.destroy()
  // Else nobody would notice until the source sends more.
  void qmp.closed.then(() => hypervisor.destroy(new Error('QEMU ended')))
  order.signal.addEventListener('abort', stop, { once: true })
  try {
    order.signal.throwIfAborted()
    const filling = order.fill(hypervisor).catch((error: unknown) => {
      // QEMU must not take what came for the whole.
      hypervisor.destroy()
      throw error
    })
    const [filled, loaded] = await Promise.allSettled([
      filling,
      filling.then(() => within(clock, LOAD_MS, 'QEMU loading the image', loading.loaded)),
    ])
    order.signal.throwIfAborted()
    if (filled.status === 'rejected') throw filled.reason
    if (loaded.status === 'rejected') throw loaded.reason
    return loaded.value
  } finally {
    order.signal.removeEventListener('abort', stop)
    loading.forget()
  }
}

/** Once all bytes are in, loading the rest takes milliseconds; device states of large guests take seconds. */
const LOAD_MS = 60_000

function watch(qmp: Qmp, signal: AbortSignal) {
  let forget = () => {}
  const loaded = new Promise<LoadedByHypervisor>((resolve, reject) => {
    forget = qmp.onEvent(({ event, data, at }) => {
      if (event === 'MIGRATION' && data.status === 'completed') resolve({ loadedAt: at })
    })
    const fail = (message: string) => reject(new CopyFailed({ type: 'HypervisorFailed', message }))
    void qmp.closed.then(() => fail('QEMU ended while it loaded the image'))
    signal.addEventListener('abort', () => fail('it was told to stop'), { once: true })
  })
  loaded.catch(() => {})
  return { loaded, forget: () => forget() }
}

import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { freePort } from '@ferry/coordinator/embedded/nats-server'
import { systemClock, within } from '@ferry/events/clock'
import { findCopy, kill, launch } from '@ferry/host-agent/drivers/qemu/copy'
import { connectQmp } from '@ferry/host-agent/drivers/qemu/qmp'
import type { Qmp, QmpEvent } from '@ferry/host-agent/drivers/qemu/qmp'
import type { Definition } from '@ferry/host-agent/drivers/qemu/definition'
import type { Move } from './figures.ts'

/**
 * What there would be without Ferry: a script that speaks QMP to both QEMUs. No log, no verdict, no end frame; the image
 * goes from QEMU to QEMU, in plain or with QEMU's own TLS.
 */
const BINARY = 'qemu-system-x86_64'
const NO_LIMIT_BYTES_PER_SECOND = 2 ** 40

export async function moveBare(
  root: string,
  definition: Definition,
  { isEncrypted, downtimeMs, limitMs }: BareOptions,
): Promise<Move> {
  const [from, to] = [join(root, 'bare-source'), join(root, 'bare-target')]
  await launch(BINARY, from, { vm: 'bare', definition })
  const source = await connectQmp(join(from, 'agent.qmp'), systemClock)
  let target: Qmp | undefined
  try {
    await source.execute('cont')
    await systemClock.sleep(WARM_UP_MS)

    const began = systemClock.now()
    const port = await freePort()
    const receives = { migration: 'bench', attempt: 1 }
    await launch(BINARY, to, { vm: 'bare', definition, receives })
    target = await connectQmp(join(to, 'agent.qmp'), systemClock)
    for (const qmp of [source, target]) {
      await qmp.execute('migrate-set-capabilities', {
        capabilities: [{ capability: 'events', state: true }],
      })
      if (isEncrypted) await useTls(qmp, root, qmp === source ? 'client' : 'server')
    }
    await source.execute('migrate-set-parameters', {
      'max-bandwidth': NO_LIMIT_BYTES_PER_SECOND,
      'downtime-limit': downtimeMs,
    })
    const paused = next(source, ({ event }) => event === 'STOP')
    const sent = next(source, isMigration('completed'))
    const loaded = next(target, isMigration('completed'))
    const ran = next(target, ({ event }) => event === 'RESUME')
    const uri = `tcp:127.0.0.1:${port}`
    await target.execute('migrate-incoming', { uri })
    const copyBegan = systemClock.now()
    await source.execute('migrate', { uri })
    try {
      await within(systemClock, limitMs, 'the migration', Promise.all([sent, loaded]))
    } catch {
      const rate = await rateOf(source)
      await source.execute('migrate_cancel')
      return { hasArrived: false, bitsPerSecond: rate }
    }
    await target.execute('cont')
    const runningAt = (await ran).at
    const { bytes } = await totalOf(source)
    await source.execute('quit')
    await source.closed
    const copyMs = (await sent).at - copyBegan
    return {
      hasArrived: true,
      totalMs: systemClock.now() - began,
      copyMs: runningAt - copyBegan,
      downtimeMs: runningAt - (await paused).at,
      bitsPerSecond: (bytes * 8000) / copyMs,
    }
  } finally {
    source.close()
    target?.close()
    for (const folder of [from, to]) {
      const copy = await findCopy(folder)
      if (copy !== undefined) await kill(copy, systemClock)
    }
  }
}

export type BareOptions = {
  readonly isEncrypted: boolean
  readonly downtimeMs: number
  /** After so long it is given up. */
  readonly limitMs: number
}

/** How long a guest has worked before it is moved. */
export const WARM_UP_MS = 1500

const isMigration =
  (status: string) =>
  ({ event, data }: QmpEvent) =>
    event === 'MIGRATION' && data.status === status

const next = (qmp: Qmp, isIt: (event: QmpEvent) => boolean): Promise<QmpEvent> =>
  new Promise((resolve) => {
    const forget = qmp.onEvent((event) => {
      if (!isIt(event)) return
      forget()
      resolve(event)
    })
  })

/** A pre-shared key, as in Ferry's own transfers: certificates would say nothing else about speed. */
async function useTls(qmp: Qmp, root: string, endpoint: 'client' | 'server'): Promise<void> {
  const dir = join(root, 'tls')
  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'keys.psk'), `qemu:${'5a'.repeat(32)}\n`, { mode: 0o600 })
  await qmp.execute('object-add', { 'qom-type': 'tls-creds-psk', id: 'tls0', dir, endpoint })
  await qmp.execute('migrate-set-parameters', { 'tls-creds': 'tls0' })
}

type Query = { ram: { transferred: number; mbps: number } }

async function totalOf(qmp: Qmp): Promise<{ bytes: number }> {
  const { ram } = (await qmp.execute('query-migrate')) as Query
  return { bytes: ram.transferred }
}

async function rateOf(qmp: Qmp): Promise<number> {
  const { ram } = (await qmp.execute('query-migrate')) as Query
  return ram.mbps * 1e6
}

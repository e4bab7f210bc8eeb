import { mkdir, open, readFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { createCurve, fromCurveSeed } from '@nats-io/nkeys'

/**
 * A host's curve key: what is sealed for it, only it can open, also after a restart. The seed stands in one file that
 * only the agent may read; the public half stands in the log.
 */
export type HostKey = {
  readonly public: string
  readonly seal: (clear: Uint8Array, reader: string) => string
  /** @returns undefined when it was not sealed for this host by that writer, or was changed on the way. */
  readonly open: (sealed: string, writer: string) => Uint8Array | undefined
}

/** Reads the host's key, or makes one where there is none. */
export async function hostKey(file: string): Promise<HostKey> {
  const pair = fromCurveSeed(await seedIn(file))
  return {
    public: pair.getPublicKey(),
    seal: (clear, reader) => Buffer.from(pair.seal(clear, reader)).toString('base64'),
    open: (sealed, writer) => pair.open(Buffer.from(sealed, 'base64'), writer) ?? undefined,
  }
}

async function seedIn(file: string): Promise<Uint8Array> {
  try {
    return await readFile(file)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error
  }
  await mkdir(dirname(file), { recursive: true, mode: 0o700 })
  const seed = createCurve().getSeed()
  const handle = await open(file, 'wx', 0o600)
  try {
    await handle.writeFile(seed)
    // A key that the log has seen must not be lost to a power cut.
    await handle.sync()
  } finally {
    await handle.close()
  }
  return seed
}

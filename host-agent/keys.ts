import { randomBytes } from 'node:crypto'
import { link, mkdir, open, readFile, rm } from 'node:fs/promises'
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
  const found = await seedAlready(file)
  if (found !== undefined) return found
  const folder = dirname(file)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const made = `${file}.${randomBytes(NAME_BYTES).toString('hex')}`
  try {
    await writeWhole(made, createCurve().getSeed())
    // Whole or not at all, and never over another: whoever was first has made the host's key.
    await link(made, file).catch((error: unknown) => {
      if (codeOf(error) !== 'EEXIST') throw error
    })
  } finally {
    await rm(made, { force: true })
  }
  await sync(folder)
  return readFile(file)
}

const NAME_BYTES = 8

/** A file that is empty was left by a power cut before anybody could have sealed for its key. */
async function seedAlready(file: string): Promise<Uint8Array | undefined> {
  try {
    const seed = await readFile(file)
    if (seed.length > 0) return seed
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error
    return undefined
  }
  await rm(file)
  return undefined
}

async function writeWhole(path: string, seed: Uint8Array): Promise<void> {
  const handle = await open(path, 'wx', 0o600)
  try {
    await handle.writeFile(seed)
    // A key that the log has seen must not be lost to a power cut.
    await handle.sync()
  } finally {
    await handle.close()
  }
}

async function sync(folder: string): Promise<void> {
  const handle = await open(folder)
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

const codeOf = (error: unknown): unknown =>
  error instanceof Error && 'code' in error ? error.code : undefined

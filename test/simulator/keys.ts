import { createHash } from 'node:crypto'
import type { HostKey } from '@ferry/host-agent/keys'

/** A host's curve key without chance: the same seed must seal the same way. Who lacks the host's name cannot open it. */
export function simulatedKey(host: string): HostKey {
  const digits = createHash('sha256').update(host).digest('hex').slice(0, 55)
  const publicKey = `X${digits.replaceAll(/./g, (digit) => 'ABCDEFGHIJKLMNOP'[Number.parseInt(digit, 16)] ?? '')}`
  return {
    public: publicKey,
    seal: (clear, reader) =>
      Buffer.concat([tag(publicKey, reader, clear), mixed(clear, publicKey, reader)]).toString(
        'base64',
      ),
    open: (sealed, writer) => {
      const bytes = Buffer.from(sealed, 'base64')
      // As with a real one, either of the two can open what passed between them.
      for (const [from, to] of [
        [writer, publicKey],
        [publicKey, writer],
      ] as const) {
        const clear = mixed(bytes.subarray(TAG_BYTES), from, to)
        if (tag(from, to, clear).equals(bytes.subarray(0, TAG_BYTES))) return clear
      }
      return undefined
    },
  }
}

const TAG_BYTES = 16

const tag = (from: string, to: string, clear: Uint8Array) =>
  createHash('sha256').update(`${from}/${to}`).update(clear).digest().subarray(0, TAG_BYTES)

function mixed(bytes: Uint8Array, from: string, to: string): Buffer {
  const stream = createHash('shake256', { outputLength: Math.max(1, bytes.length) })
    .update(`${from}/${to}/stream`)
    .digest()
  return Buffer.from(bytes.map((byte, at) => byte ^ (stream[at] ?? 0)))
}

import type { SecureVersion } from 'node:tls'

/**
 * TLS 1.3 with a pre-shared key: who has the transfer's key may speak for it, and nobody else. No certificates. The
 * cipher is named because Node's first choice, ChaCha20, is slower where the CPU has AES instructions.
 */
const version: SecureVersion = 'TLSv1.3'

export const tlsOptions = {
  minVersion: version,
  maxVersion: version,
  ciphers: 'TLS_AES_128_GCM_SHA256',
}

export const KEY_BYTES = 32

import type { Policy } from '@ferry/schemas/policy'
import { CopyFailed } from '../../driver.ts'
import type { Image } from '../../transfer/image.ts'
import type { Parameter } from './procedures.ts'
import type { Libvirt } from './rpc.ts'
import type { Following } from './watch.ts'

/** How an image leaves QEMU: through Ferry's stream (`by-stream.ts`), or without it (`directly.ts`). */
export type Way = {
  /** What libvirt's Perform is told of it. */
  readonly asked: Ordered
  /** Keeps to a limit itself; absent: libvirt is asked to. */
  readonly paces: ((policy: Policy) => void) | undefined
  /** Makes what can only be made when libvirt can be asked. */
  readonly open: (libvirt: Libvirt, policy: Policy) => Promise<void>
  /** Resolves when all of it has left, and the guest, which is paused then, has passed the gate. */
  readonly carry: (copy: UnderWay) => Promise<void>
  /** The guest is to run on; QEMU's own answer says how that went. */
  readonly breakOff: () => void
  /** Nobody is waited for any more. */
  readonly stop: () => void
  readonly close: () => void
  /** No agent sees it. */
  readonly isDirect: boolean
}

export type Ordered = { readonly parameters: readonly Parameter[]; readonly flags: number }

export type UnderWay = {
  readonly send: (image: Image) => Promise<void>
  /** libvirt's answer to Perform. */
  readonly performed: Promise<unknown>
  readonly following: Following
  /** From now on limits can be changed. */
  readonly begun: () => void
}

export const failed = (message: string, cause?: unknown) =>
  new CopyFailed({ type: 'HypervisorFailed', message }, { cause })

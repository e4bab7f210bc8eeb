import { isIPv6 } from 'node:net'
import { Type } from 'typebox'
import type { Static } from 'typebox'
import { Invalid, parse } from '@ferry/schemas/parse'
import type { Clock } from '@ferry/events/clock'
import type { PostCopy } from '../../driver.ts'
import { bringing } from './disks.ts'
import type { DiskToSend } from './disks.ts'
import { procedures } from './procedures.ts'
import type { Domain, Parameter } from './procedures.ts'
import { goEarly } from './post-copy.ts'
import type { Libvirt } from './rpc.ts'
import { failed } from './way.ts'
import type { Ordered, Way } from './way.ts'
import { MigrateFlag } from './words.ts'

/**
 * The two QEMUs move the image by themselves, over TCP that libvirt opens for them: in the clear, and no agent sees it. So
 * nothing is held back before QEMU has "completed", and what the gate decides is whether the target hears of it at all: it
 * commits only on `Performed`, and until that is said a guest that is paused and whole can still be sent home.
 *
 *     Perform ──► rounds 1, 2, ... ──► SUSPENDED ──► Perform's reply (paused and whole) ──► Performed
 *                                         │                                                     ▲
 *                                        gate ──────────────────────────────────────────────────┘ or it runs on
 */
export function directly(
  domain: Domain,
  brought: readonly DiskToSend[],
  target: string,
  connections: number,
  postCopy: PostCopy | undefined,
  { clock, signal }: { readonly clock: Clock; readonly signal: AbortSignal },
): Way {
  const asked = overTcp(target, connections, postCopy !== undefined)
  let libvirt: Libvirt | undefined
  const abort = () => void libvirt?.call(procedures.abortJob, { domain }).catch(() => {})
  return {
    asked: {
      parameters: [...asked.parameters, ...bringing(brought.map((disk) => disk.target))],
      flags: asked.flags | (brought.length > 0 ? MigrateFlag.nonSharedDisk : 0),
    },
    paces: undefined,
    open: async (its) => {
      libvirt = its
    },
    carry: async ({ performed, following, begun }) => {
      following.onBegun(begun)
      const through = Promise.all([performed, following.gatePassed])
      if (postCopy === undefined || libvirt === undefined) return void (await through)
      await goEarly({ libvirt, domain, following, postCopy, clock, performed, through, signal })
    },
    breakOff: abort,
    stop: () => {},
    close: () => {},
    isDirect: true,
  }
}

/** What both of libvirt's ends must be told alike. Post-copy leaves no guest paused: Finish is what starts it. */
function overTcp(uri: string, connections: number, isPostCopy: boolean): Ordered {
  const parameters: Parameter[] = [{ field: 'migrate_uri', is: 'string', value: uri }]
  if (isPostCopy) return { parameters, flags: MigrateFlag.postCopy }
  if (connections === 1) return { parameters, flags: MigrateFlag.paused }
  parameters.push({ field: 'parallel.connections', is: 'int', value: connections })
  return { parameters, flags: MigrateFlag.paused | MigrateFlag.parallel }
}

/** Where the target's QEMU is to listen: on that address alone, which may be a name, and on a port that libvirt chooses. */
export function listening(address: string, connections: number, isPostCopy: boolean): Ordered {
  const { parameters, flags } = overTcp(
    isIPv6(address) ? `tcp://[${address}]` : `tcp://${address}`,
    connections,
    isPostCopy,
  )
  const alone = { field: 'listen_address', is: 'string', value: address } as const
  return { parameters: [...parameters, alone], flags }
}

/** What the target says: where its QEMU listens, beside libvirt's own cookie. */
const Reached = Type.Object(
  { uri: Type.String({ pattern: '^tcp:' }), cookie: Type.String() },
  { additionalProperties: false },
)

export const reachedAt = (said: Static<typeof Reached>): string => JSON.stringify(said)

export function readReached(text: string): Static<typeof Reached> {
  try {
    return parse(Reached, JSON.parse(text), 'what the target says')
  } catch (error) {
    if (!(error instanceof Invalid) && !(error instanceof SyntaxError)) throw error
    throw failed('the target does not say where its QEMU listens', error)
  }
}

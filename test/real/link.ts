import { connect, createServer } from 'node:net'
import type { Socket } from 'node:net'

/** The network in front of one port: what arrives is passed on, until somebody cuts it or makes it silent. */
export type Link = {
  readonly address: { readonly host: string; readonly port: number }
  /** Breaks every connection that is open; new ones may be made. */
  readonly cut: () => void
  /**
   * A partition: nothing passes that way, and nobody hears that a connection has ended. What was sent waits, as it does
   * in a real sender's buffers. @returns how to heal it; several silences on one link heal one by one.
   */
  readonly silence: (way?: Way) => () => void
  readonly passedBytes: () => number
  readonly close: () => Promise<void>
}

/** `in` is to the port behind the link, `out` is what that port says. */
export type Way = 'in' | 'out' | 'both'

/** One direction of one connection. */
type Flow = {
  readonly way: Way
  readonly from: Socket
  readonly to: Socket
  passes: boolean
  hasEnded: boolean
}

export async function openLink(port: number): Promise<Link> {
  const host = '127.0.0.1'
  const flows = new Set<Flow>()
  const silences = new Set<{ readonly way: Way }>()
  let passed = 0
  const isSilent = (way: Way) =>
    [...silences].some((silence) => silence.way === 'both' || silence.way === way)

  const settle = (flow: Flow) => {
    const { way, from, to } = flow
    const mayPass = !isSilent(way)
    if (mayPass && flow.hasEnded) {
      flows.delete(flow)
      to.destroy()
    }
    if (flow.hasEnded || flow.passes === mayPass) return
    flow.passes = mayPass
    if (mayPass) from.pipe(to)
    else from.unpipe(to).pause()
  }

  const open = (flow: Flow) => {
    const { from } = flow
    flows.add(flow)
    from.setNoDelay(true)
    from.pause()
    from.on('data', (chunk: Buffer) => (passed += chunk.length))
    from.on('error', () => {})
    from.on('close', () => {
      flow.hasEnded = true
      settle(flow)
    })
    settle(flow)
  }

  const server = createServer({ allowHalfOpen: true }, (visitor) => {
    const onward = connect({ host, port, allowHalfOpen: true })
    open({ way: 'in', from: visitor, to: onward, passes: false, hasEnded: false })
    open({ way: 'out', from: onward, to: visitor, passes: false, hasEnded: false })
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, host, resolve)
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the link has no address')

  const cut = () => {
    for (const { from } of flows) from.destroy()
  }
  const settleAll = () => {
    for (const flow of flows) settle(flow)
  }
  return {
    address: { host, port: address.port },
    cut,
    silence: (way = 'both') => {
      const silence = { way }
      silences.add(silence)
      settleAll()
      return () => {
        if (silences.delete(silence)) settleAll()
      }
    },
    passedBytes: () => passed,
    close: async () => {
      silences.clear()
      settleAll()
      cut()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

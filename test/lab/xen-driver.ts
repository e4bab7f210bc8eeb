import { createConnection } from 'node:net'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { CopyFailed, NeverStarted } from '@ferry/host-agent/driver'
import type { Driver, PerformOrder, ReceiveOrder } from '@ferry/host-agent/driver'
import { imageFromPieces } from '@ferry/host-agent/transfer/image'
import { until } from '../until.ts'
import { openSeat } from './seat-frames.ts'
import type { Seat, Trouble, Word } from './seat-frames.ts'
import { LOOK_EVERY_MS, SEAT_PORT } from './xen-hosts.ts'
import type { XenHosts, XenTool } from './xen-hosts.ts'

/** Ferry's driver for Xen in a host's dom0, called from here; and its process, which can be killed. */
export type FarDriver = { readonly driver: Driver; readonly crash: () => Promise<void> }

const COME_UP_MS = 60_000

/** @param programs where `xen-seat.ts` lies, bundled. */
export async function openFarDriver(
  hosts: XenHosts,
  host: string,
  {
    programs,
    definitions,
    tool,
  }: { readonly programs: string; readonly definitions: string; readonly tool: XenTool },
): Promise<FarDriver> {
  const seat = join(programs, 'test/lab/xen-seat.mjs')
  const start = async () => {
    await hosts.shell(
      host,
      `setsid node ${seat} ${tool} /var/lib/ferry/guests ${definitions} ${SEAT_PORT} >> /var/log/seat.log 2>&1 < /dev/null & echo $! > /run/seat.pid`,
    )
    await until(
      `the driver on ${host} to answer`,
      () =>
        far.inspect().then(
          () => true,
          () => false,
        ),
      COME_UP_MS,
      LOOK_EVERY_MS,
    )
  }
  const call = async (name: string, words: readonly unknown[], more: Calling = {}) => {
    const socket = createConnection({ host: '127.0.0.1', port: hosts.port(host) })
    const result = new Promise<unknown>((resolve, reject) => {
      const seat = openSeat(
        socket,
        (word) => {
          if ('result' in word) resolve(word.result ?? undefined)
          else if ('error' in word) reject(errorOf(word.error))
          else more.heard?.(word, seat)
        },
        (piece) => more.came?.(piece, socket),
      )
      socket.once('close', () => reject(new Error(`the driver on ${host} is gone`)))
      more.began?.(seat)
      seat.say({ call: name, words })
    })
    try {
      return await result
    } finally {
      socket.destroy()
    }
  }
  const simple =
    (name: string) =>
    (...words: unknown[]): Promise<never> =>
      call(name, words) as Promise<never>
  const far: Driver = {
    hypervisor: { hypervisor: 'xen' } as Driver['hypervisor'],
    inspect: simple('inspect'),
    start: simple('start'),
    begin: simple('begin'),
    prepare: simple('prepare'),
    activate: simple('activate'),
    release: simple('release'),
    resume: simple('resume'),
    clear: simple('clear'),
    perform: (vm, order) =>
      call('perform', [vm, order.dial.policy(), order.cookie], performing(order)) as Promise<never>,
    receive: (vm, order) => {
      const { calling, filled } = receiving(order)
      return Promise.all([call('receive', [vm], calling).catch(filled), filled()]).then(
        ([loaded]) => loaded as never,
      )
    },
    onChange: () => {},
    close: async () => {},
  }
  await start()
  return {
    driver: far,
    crash: async () => {
      await hosts.shell(host, 'kill -9 $(cat /run/seat.pid)')
      await start()
    },
  }
}

type Calling = {
  readonly began?: (seat: Seat) => void
  readonly heard?: (word: Word, seat: Seat) => void
  readonly came?: (piece: Buffer, socket: ReturnType<typeof createConnection>) => void
}

function performing(order: PerformOrder): Calling {
  const pieces: (Buffer | 'end')[] = []
  let wake = () => {}
  const put = (piece: Buffer | 'end') => {
    pieces.push(piece)
    wake()
  }
  async function* flowing() {
    for (;;) {
      const piece = pieces.shift()
      if (piece === 'end') return
      if (piece !== undefined) yield piece
      else
        await new Promise<void>((resolve) => {
          wake = resolve
        })
    }
  }
  return {
    began: (seat) => {
      order.signal.addEventListener('abort', () => seat.say({ stop: true }))
      order.dial.onTurn(order.dial.policy(), async (policy) => seat.say({ policy }))
      order.send(imageFromPieces(flowing())).then(
        () => seat.say({ sent: 'done' }),
        (error: unknown) => seat.say({ sent: failureIn(error) }),
      )
    },
    heard: (word, seat) => {
      if ('sent' in word) put('end')
      if ('paused' in word) order.paused(word.paused)
      if ('round' in word) order.round(word.round as never)
      if ('progress' in word) order.progress(word.progress as never)
      if ('gate' in word)
        order.gate().then(
          () => seat.say({ gate: 'passed' }),
          (error: unknown) => seat.say({ gate: failureIn(error) }),
        )
    },
    came: put,
  }
}

/** A driver that is gone is one more reason for a copy to fail: what filled it says which. */
function receiving(order: ReceiveOrder) {
  let fill: Promise<void> | undefined
  return {
    filled: async (error?: unknown) => {
      await fill
      if (error !== undefined) throw error
    },
    calling: {
      began: (seat: Seat) => order.signal.addEventListener('abort', () => seat.say({ stop: true })),
      heard: (word: Word, seat: Seat) => {
        if (!('fill' in word)) return
        fill = order.fill(farHypervisor(seat)).catch((error: unknown) => {
          seat.say({ fill: failureIn(error) })
          throw error
        })
        fill.catch(() => {})
      },
    } satisfies Calling,
  }
}

const farHypervisor = (seat: Seat) =>
  new Writable({
    write: (chunk: Buffer, _, done) => {
      const given = () => done()
      void seat.give(chunk).then(given)
    },
    final: (done) => {
      seat.say({ fill: 'done' })
      done()
    },
  })

const failureIn = (error: unknown) =>
  error instanceof CopyFailed
    ? error.failure
    : ({ type: 'HypervisorFailed', message: String(error) } as const)

function errorOf({ name, message, failure }: Trouble): Error {
  if (failure !== undefined && name === 'CopyFailed') return new CopyFailed(failure)
  if (failure !== undefined && name === 'NeverStarted') return new NeverStarted(failure)
  return Object.assign(new Error(message), { name })
}

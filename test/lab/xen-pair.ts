import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import type { Driver, Landing, PerformOrder } from '@ferry/host-agent/driver'
import { FRAME_HEADER_BYTES } from '@ferry/host-agent/transfer/frames'
import * as assert from 'uvu/assert'
import { testDial } from '../dial.ts'
import { until } from '../until.ts'
import { putPrograms } from './programs.ts'
import { openFarDriver } from './xen-driver.ts'
import { describeLibxlGuest, describeXenGuest, lastCount } from './xen-guest.ts'
import type { XenGuest } from './xen-guest.ts'
import { LOOK_EVERY_MS, openXenHosts } from './xen-hosts.ts'
import type { XenHosts, XenTool } from './xen-hosts.ts'

/** Two hosts, and Ferry's driver in each, which is called from here: no agents and no log. */
export type XenPair = {
  readonly hosts: XenHosts
  readonly source: Driver
  readonly target: Driver
  /** Makes a guest on the source, and waits until it counts. */
  readonly start: (vm: string, guest: XenGuest) => Promise<void>
  /** It counts further on the source, and its memory is what it was. */
  readonly goesOn: (vm: string) => Promise<void>
  /** On the source and on the target. */
  readonly states: (vm: string) => Promise<readonly (string | undefined)[]>
  readonly landing: (vm: string) => Promise<Landing>
  /** Sends it to a target that has been prepared. */
  readonly copy: (vm: string, more?: Partial<PerformOrder>) => Promise<void>
  readonly close: () => Promise<void>
}

export const names = ['source', 'target'] as const
export const PAIR_PATIENCE_MS = 240_000

export async function openXenPair(tool: XenTool): Promise<XenPair> {
  const root = await mkdtemp(join(tmpdir(), 'ferry-'))
  const where = { programs: join(root, 'programs'), definitions: join(root, 'vms'), tool }
  let hosts: XenHosts | undefined
  try {
    await mkdir(where.definitions)
    await putPrograms(['test/lab/xen-seat.ts'], where.programs)
    hosts = await openXenHosts(root, names)
    if (tool === 'libxl') await Promise.all(names.map(hosts.startLibvirt))
    return await open(hosts, root, where)
  } catch (error) {
    await hosts?.close()
    await rm(root, { recursive: true })
    throw error
  }
}

async function open(
  hosts: XenHosts,
  root: string,
  where: { readonly programs: string; readonly definitions: string; readonly tool: XenTool },
): Promise<XenPair> {
  const { driver: source } = await openFarDriver(hosts, 'source', where)
  const { driver: target } = await openFarDriver(hosts, 'target', where)
  const counted = async (vm: string) => (await lastCount(hosts, 'source', vm))?.count ?? -1
  const goesOn = async (vm: string) => {
    const before = await counted(vm)
    const isFurther = async () => (await counted(vm)) > before
    await until(`${vm} to go on`, isFurther, PAIR_PATIENCE_MS, LOOK_EVERY_MS)
    assert.is((await lastCount(hosts, 'source', vm))?.fault, undefined)
  }
  return {
    hosts,
    source,
    target,
    goesOn,
    start: async (vm, guest) => {
      const [as, text] =
        where.tool === 'xl'
          ? ['cfg', describeXenGuest(vm, guest)]
          : ['xml', describeLibxlGuest(vm, guest)]
      await writeFile(join(where.definitions, `${vm}.${as}`), text)
      const begun = await source.start(vm)
      assert.ok('needs' in begun, JSON.stringify(begun))
      await goesOn(vm)
    },
    states: (vm) =>
      Promise.all(
        [source, target].map(
          async (driver) => (await driver.inspect()).find((guest) => guest.vm === vm)?.state,
        ),
      ),
    landing: async (vm) => {
      const begun = await source.begin(vm)
      if ('refusal' in begun) throw new Error(JSON.stringify(begun))
      return { vm, ...begun, migration: 'm1', attempt: 1 }
    },
    copy: async (vm, more = {}) => {
      const wire = new PassThrough()
      const send: PerformOrder['send'] = async (image) => {
        for (let frame = await image.next(); frame !== undefined; frame = await image.next()) {
          const piece = Buffer.from(frame.subarray(FRAME_HEADER_BYTES))
          if (!wire.write(piece)) await new Promise((resolve) => wire.once('drain', resolve))
        }
      }
      const sending = source.perform(vm, performOrder({ send, ...more }))
      const receiving = target.receive(vm, {
        signal: new AbortController().signal,
        fill: async (hypervisor) => {
          for await (const piece of wire)
            if (!hypervisor.write(piece))
              await new Promise((resolve) => hypervisor.once('drain', resolve))
          hypervisor.end()
        },
      })
      sending.then(
        () => wire.end(),
        (error: Error) => wire.destroy(error),
      )
      const [sent] = await Promise.allSettled([sending, receiving])
      if (sent.status === 'rejected') throw sent.reason
      await receiving
    },
    close: async () => {
      await hosts.close()
      await rm(root, { recursive: true })
    },
  }
}

/** What nobody asked for otherwise: no gate holds it up, and nothing is sent. */
export const performOrder = (more: Partial<PerformOrder>): PerformOrder => ({
  dial: testDial(),
  signal: new AbortController().signal,
  gate: async () => {},
  paused: () => {},
  round: () => {},
  progress: () => {},
  send: async () => {},
  ...more,
})

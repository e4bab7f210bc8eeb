import type { Driver, Landing, PerformOrder } from '@ferry/host-agent/driver'
import * as assert from 'uvu/assert'
import { openWire, performOrder, receiveOrder } from '../contract/wire.ts'
import { until } from '../until.ts'
import { lastCount } from './xen-guest.ts'
import type { XenGuest } from './xen-guest.ts'
import { LOOK_EVERY_MS } from './xen-hosts.ts'
import type { XenHosts, XenTool } from './xen-hosts.ts'
import { PATIENCE_MS, openXenSeats } from './xen-seats.ts'

/** The same seats, with what stories on two hosts do again and again. */
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
  /** Sends it to a target that has been prepared. @throws what went wrong first, when neither end is at it any more. */
  readonly copy: (vm: string, more?: Partial<PerformOrder>) => Promise<void>
  readonly close: () => Promise<void>
}

export async function openXenPair(tool: XenTool): Promise<XenPair> {
  const seats = await openXenSeats(tool)
  const { hosts, close } = seats
  const [source, target] = [seats.source.driver, seats.target.driver]
  const counted = async (vm: string) => (await lastCount(hosts, 'source', vm))?.count ?? -1
  const goesOn = async (vm: string) => {
    const before = await counted(vm)
    const isFurther = async () => (await counted(vm)) > before
    await until(`${vm} to go on`, isFurther, PATIENCE_MS, LOOK_EVERY_MS)
    assert.is((await lastCount(hosts, 'source', vm))?.fault, undefined)
  }
  return {
    hosts,
    source,
    target,
    goesOn,
    close,
    start: async (vm, guest) => {
      await seats.define(vm, guest)
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
      const wire = openWire()
      const sending = source.perform(vm, { ...performOrder(wire), ...more })
      const receiving = target.receive(vm, receiveOrder(wire))
      sending.then(wire.end, wire.cut)
      receiving.catch(wire.cut)
      const firstFailure = Promise.all([sending, receiving])
      // It is awaited only when both have ended: until then nobody is there to take it.
      firstFailure.catch(() => {})
      await Promise.allSettled([sending, receiving])
      await firstFailure
    },
  }
}

import type { PerformOrder } from '../../driver.ts'
import type { Domain } from './listing.ts'
import { watchStore } from './store.ts'
import type { Xl } from './xl.ts'

export type Pause = ReturnType<typeof openPause>

/** The moment at which the guest stands still, and the gate behind it. */
export function openPause(domain: Domain, order: PerformOrder, { clock, domains }: Xl) {
  let pausedAt = 0
  let gatePassedAt = 0
  let refusal: Error | undefined
  let pass = () => {}
  let refuse: (error: Error) => void = () => {}
  const passed = new Promise<void>((resolve) => {
    pass = resolve
  })
  const refused = new Promise<Error>((resolve) => {
    refuse = resolve
  })
  const pausedSince = (at: number) => {
    if (pausedAt !== 0) return
    pausedAt = at
    order.paused(at)
    order.gate().then(
      () => {
        gatePassedAt = clock.now()
        pass()
      },
      (error: unknown) => {
        refusal = error instanceof Error ? error : new Error(String(error))
        refuse(refusal)
      },
    )
  }
  let isLooking = false
  const look = async () => {
    isLooking = true
    try {
      const at = clock.now()
      const now = (await domains()).find(({ domid }) => domid === domain.domid)
      if (now?.state === 'suspended') pausedSince(at)
    } finally {
      isLooking = false
    }
  }
  // One that is missed here is seen in the image.
  const close = watchStore(['@releaseDomain'], () => {
    if (pausedAt === 0 && !isLooking) look().catch(() => {})
  })
  return {
    refused,
    refusal: () => refusal,
    /** @throws what the gate threw. */
    passed: async () => {
      await Promise.race([passed, refused])
      if (refusal !== undefined) throw refusal
    },
    /** The image itself shows it. */
    isPaused: () => pausedSince(clock.now()),
    times: () => ({ pausedAt, gatePassedAt }),
    close,
  }
}

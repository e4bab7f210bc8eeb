import { dialAt } from '@ferry/host-agent/dial'
import type { Dial } from '@ferry/host-agent/dial'
import { defaultPolicy } from '@ferry/schemas/policy'
import type { Policy } from '@ferry/schemas/policy'

/** For a copy of a test. A change that cannot be put into effect ends the test. */
export const testDial = (policy: Partial<Policy> = {}): Dial =>
  dialAt({ ...defaultPolicy, ...policy }, (error) => {
    throw error
  })

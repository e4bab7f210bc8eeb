import { CopyFailed } from '@ferry/host-agent/driver'
import * as assert from 'uvu/assert'

/** Waits for a copy to fail, and gives what it says. */
export async function failureOf(work: Promise<unknown>): Promise<CopyFailed['failure']> {
  try {
    await work
  } catch (error) {
    assert.instance(error, CopyFailed, String(error))
    return (error as CopyFailed).failure
  }
  throw new Error('it did not fail')
}

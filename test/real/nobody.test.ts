import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { refused } from '@ferry/coordinator/refused'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { notHere } from '../not-here.ts'
import { ROOT } from './lab.ts'
import { withStandIn } from './stand-in.ts'

/** As containers have them. */
const test = suite('a user whom no passwd knows, and without a home')

const AS_NOBODY = ['--user', '--map-user=4242']

async function ferry(...words: string[]) {
  const { HOME: _, ...env } = process.env
  const child = spawn('unshare', [...AS_NOBODY, process.execPath, 'ferry.mjs', ...words], {
    cwd: ROOT,
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const [stderr] = await Promise.all([text(child.stderr), once(child, 'close')])
  return { code: child.exitCode, stderr }
}

if (spawnSync('unshare', [...AS_NOBODY, 'true']).status === 0) {
  test('is served like any other', async () => {
    const { code, stderr } = await ferry('coordinator', '--help')
    assert.is(code, 0, stderr)
  })

  test('asks under a number', () => {
    const cancel = async (asked: unknown) => refused({ type: 'Busy', what: JSON.stringify(asked) })
    return withStandIn({ cancel }, async (server) => {
      const { code, stderr } = await ferry('cancel', 'm1', '--server', server)
      assert.is(code, 3, stderr)
      assert.match(stderr, '"by":"uid4242@')
    })
  })
} else notHere('real/nobody: no user namespaces')

test.run()

import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { startNatsServer } from '@ferry/coordinator/embedded/nats-server'
import { systemClock, within } from '@ferry/events/clock'
import { emptyFleet, replay } from '@ferry/events/fleet'
import { connect } from '@ferry/events/log/connect'
import { token } from '@ferry/events/subjects'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ROOT } from '../real/lab.ts'
import { until } from '../until.ts'

const test = suite('the name of a coordinator')

test('is that of its host: it finds again how far it has seen the log, and is not there twice', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-named-'))
  const server = await startNatsServer({ dataDirectory: join(folder, 'log') })
  const state = join(folder, 'state')
  const words = ['ferry.mjs', 'coordinator', '--server', server.url, '--state', state]
  const started: ChildProcess[] = []
  const start = () => {
    const child = spawn(process.execPath, words, { cwd: ROOT, stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
    started.push(child)
    return { child, ended: once(child, 'exit'), said: () => said }
  }
  const address = { servers: [server.url], name: 'test' }
  const first = start()
  const { log, close } = await connect(address, systemClock, { patienceMs: 30_000 })
  try {
    const epoch = async () => (await replay(log.read({ after: 0 }), emptyFleet())).leader?.epoch
    await until('the first to lead', async () => (await epoch()) === 1)

    const second = start()
    const [code] = await within(systemClock, 30_000, 'the end of the second', second.ended)
    assert.is(code, 1)
    assert.match(second.said(), `nother coordinator named ${hostname()}`)

    first.child.kill('SIGKILL')
    await first.ended
    start()
    await until('it to lead again', async () => (await epoch()) === 2)
    const marks = (await readdir(state)).filter((file) => file.endsWith('.watermark'))
    assert.equal(marks, [`${token(hostname())}.watermark`])
  } finally {
    await close()
    for (const child of started) child.kill('SIGKILL')
    await server.stop()
    await rm(folder, { recursive: true })
  }
})

test.run()

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FenceFile, fenceCommands } from '@ferry/coordinator/fences'
import { systemClock } from '@ferry/events/clock'
import { Invalid, parse } from '@ferry/schemas/parse'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../until.ts'

/** Fence commands as real programs: small ones of our own, with the manners of fence agents. */
const test = suite('a fence command')

const SECRET = 'correct horse battery'
let folder: string
test.before.each(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ferry-fence-'))
})
test.after.each(() => rm(folder, { recursive: true }))

/** A program that notes what it was given, and then does what the body says. */
async function fencesWith(body: string, limitMs = 20_000) {
  const program = join(folder, 'fence_test')
  const notes = JSON.stringify(join(folder, 'notes'))
  await writeFile(
    program,
    `#!${process.execPath}
    const { readFileSync, appendFileSync } = require('node:fs')
    const lines = readFileSync(0, 'utf8').trim().split('\\n')
    const given = Object.fromEntries(lines.map((line) => line.split('=')))
    appendFileSync(${notes}, JSON.stringify({ given, words: process.argv.slice(2) }) + '\\n')
    ${body}`,
    { mode: 0o755 },
  )
  const options = { ip: '10.1.0.2', password: SECRET, lanplus: 1 }
  const file = { rack2: { command: [program, '--plug', '$(id); 7'], options, limitMs } }
  return fenceCommands(parse(FenceFile, file, 'fences'), systemClock)
}

const notes = async (): Promise<{ given: Record<string, string>; words: string[] }[]> =>
  (await readFile(join(folder, 'notes'), 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))

const never = new AbortController().signal
const onlyOff = "process.exit(given.action === 'off' ? 0 : 2)"

test('is asked to turn the host off, and then how the host is', async () => {
  const fences = await fencesWith(onlyOff)
  assert.equal([...fences.hosts], ['rack2'])
  const outcome = await fences.turnOff('rack2', never)
  assert.equal([outcome.isOff, outcome.by], [true, 'fence_test'])
  assert.match(outcome.evidence, /^off ended with 0 after .*; status ended with 2/)
  const calls = await notes()
  assert.equal(
    calls.map(({ given }) => given.action),
    ['off', 'status'],
  )
  for (const { given, words } of calls) {
    assert.equal([given.nodename, given.ip, given.lanplus], ['rack2', '10.1.0.2', '1'])
    // No shell has read the words.
    assert.equal(words, ['--plug', '$(id); 7'])
  }
})

test('one that fails says why, and no secret of its options', async () => {
  const fences = await fencesWith(
    "console.error('cannot log in to ' + given.ip + ' with ' + given.password); process.exit(1)",
  )
  const { isOff, evidence } = await fences.turnOff('rack2', never)
  assert.is(isOff, false)
  assert.match(evidence, /^off ended with 1 after .*: cannot log in to <ip> with <password>$/)
  assert.not.match(evidence, SECRET)
})

test('a host that is on afterwards was not fenced; one that cannot be asked was', async () => {
  assert.is((await (await fencesWith('process.exit(0)')).turnOff('rack2', never)).isOff, false)
  const mute = await fencesWith("process.exit(given.action === 'off' ? 0 : 1)")
  assert.is((await mute.turnOff('rack2', never)).isOff, true)
})

const isGone = (pid: number) => {
  try {
    process.kill(pid, 0)
    return false
  } catch {
    return true
  }
}
const hangs = `
  const child = require('node:child_process').spawn('sleep', ['600'], { stdio: 'inherit' })
  require('node:fs').writeFileSync(__dirname + '/pids.part', process.pid + ' ' + child.pid)
  require('node:fs').renameSync(__dirname + '/pids.part', __dirname + '/pids')
  setInterval(() => {}, 1000)`
const pids = async () =>
  (await readFile(join(folder, 'pids'), 'utf8').catch(() => '')).split(' ').map(Number)
const allGone = () =>
  until('the command and what it started to be gone', async () => (await pids()).every(isGone))

test('one that hangs is killed with all that it started, and counts as failed', async () => {
  const fences = await fencesWith(hangs, 3000)
  const { isOff, evidence } = await fences.turnOff('rack2', never)
  assert.is(isOff, false)
  assert.match(evidence, 'off had not ended')
  await allGone()
})

test('one that is not wanted any more is killed, and says nothing', async () => {
  const fences = await fencesWith(hangs)
  const stop = new AbortController()
  const turning = fences.turnOff('rack2', stop.signal).catch((error: unknown) => error)
  await until('it to hang', async () => (await pids()).length === 2)
  stop.abort(new Error('not wanted'))
  assert.match(String(await turning), 'not wanted')
  await allGone()
})

test('a program that is not there is a failure like any other', async () => {
  const file = { rack2: { command: [join(folder, 'nowhere')] } }
  const { isOff, evidence } = await fenceCommands(file, systemClock).turnOff('rack2', never)
  assert.is(isOff, false)
  assert.match(evidence, 'could not be started (ENOENT)')
})

test('nor is one of which the path leads through a file', async () => {
  await writeFile(join(folder, 'file'), '')
  const file = { rack2: { command: [join(folder, 'file', 'fence_test')] } }
  const { isOff, evidence } = await fenceCommands(file, systemClock).turnOff('rack2', never)
  assert.is(isOff, false)
  assert.match(evidence, 'could not be started (ENOTDIR)')
})

test('for one host, one call after the other', async () => {
  const fences = await fencesWith(onlyOff)
  const outcomes = await Promise.all([
    fences.turnOff('rack2', never),
    fences.turnOff('rack2', never),
  ])
  assert.ok(outcomes.every(({ isOff }) => isOff))
  assert.equal(
    (await notes()).map(({ given }) => given.action),
    ['off', 'status', 'off', 'status'],
  )
})

test('a value that would make two lines of itself is turned away at the door', () => {
  const file = { rack2: { command: ['fence_test'], options: { plug: '1\naction=on' } } }
  assert.throws(
    () => parse(FenceFile, file, 'fences'),
    (error: unknown) => error instanceof Invalid,
  )
})

test.run()

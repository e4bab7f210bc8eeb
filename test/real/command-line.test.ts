import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { systemClock, within } from '@ferry/events/clock'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ROOT, openLab } from './lab.ts'
import type { Answered, Lab } from './lab.ts'

/** The command line as an operator meets it: real processes, simulated guests. */
const test = suite('the command line')

let lab: Lab
test.before(async () => {
  lab = await openLab({ hosts: ['rack1', 'rack2'], driver: 'simulated' })
  await lab.defineGuest('web1', { simulated: { memoryMiB: 4, pagesPerSecond: 2000 } })
})
test.after(async () => lab.close())

const ended = ({ code, stdout, stderr }: Answered, expected: number) =>
  assert.is(code, expected, `${stdout}\n${stderr}`)

/** Whatever goes wrong is told in a sentence. */
const isSentence = ({ stderr }: Answered) => {
  assert.ok(stderr.trim().length > 0)
  assert.not.match(stderr, /\n\s+at /)
}

test('every verb has help', async () => {
  const help = await lab.ferry('--help')
  ended(help, 0)
  const verbs = [...help.stdout.matchAll(/^ {2}([a-z]+) /gm)].flatMap(([, verb]) => verb ?? [])
  for (const wanted of ['up', 'coordinator', 'agent', 'migrate', 'cancel', 'fleet', 'watch'])
    assert.ok(verbs.includes(wanted), wanted)
  for (const verb of verbs.filter((each) => each !== 'help')) {
    const { code, stdout } = await lab.ferry(verb, '--help')
    assert.is(code, 0)
    assert.match(stdout, `Usage: ferry ${verb}`)
  }
})

test('a guest is started, moved with its progress, and explained', async () => {
  const started = await lab.ferry('start', 'web1', '--on', 'rack1')
  ended(started, 0)
  assert.match(started.stdout, 'web1 runs on rack1.')

  const moved = await lab.ferry('migrate', 'web1', '--request', 'm1', '--wait')
  ended(moved, 0)
  assert.match(moved.stderr, /web1 → rack2 [a-z]+: /)
  assert.match(moved.stdout, 'm1: web1 from rack1 to rack2: completed')

  const explained = await lab.ferry('explain', 'm1')
  ended(explained, 0)
  // Not `switching`: what the source says of its pause may stand behind the verdict, and then there was no such phase.
  for (const word of ['activating', 'downtime', 'decided by', 'Committed, written by rack2'])
    assert.match(explained.stdout, word)
})

test('JSON is what other programs get, and nothing else stands on stdout', async () => {
  const fleet = JSON.parse((await lab.ferry('fleet', '--json')).stdout)
  assert.equal(
    fleet.hosts.map(({ host }: { host: string }) => host),
    ['rack1', 'rack2'],
  )
  const timeline = JSON.parse((await lab.ferry('explain', 'm1', '--json')).stdout)
  assert.is(timeline.phase, 'completed')
  const answer = await lab.ferry('migrate', 'web1', '--to', 'rack1', '--request', 'm2', '--json')
  assert.is(JSON.parse(answer.stdout).id, 'm2')
  await lab.ended('m2')
  const moved = await lab.ferry('migrate', 'web1', '--wait', '--json')
  assert.is(JSON.parse(moved.stdout).phase, 'completed')
  const refused = await lab.ferry('migrate', 'nobody', '--json')
  ended(refused, 3)
  assert.is(JSON.parse(refused.stdout).refusal.type, 'UnknownGuest')
})

test('a refusal is a sentence and a code of its own', async () => {
  const unknown = await lab.ferry('migrate', 'nobody')
  ended(unknown, 3)
  assert.match(unknown.stderr, 'No host reports a guest named nobody.')
  const late = await lab.ferry('cancel', 'm1')
  ended(late, 3)
  assert.match(late.stderr, 'm1 has ended: it was completed.')
  const silent = await lab.ferry('explain', 'nothing')
  ended(silent, 3)
  const resolved = await lab.ferry('resolve', 'm1', '--fenced', 'rack2')
  ended(resolved, 3)
  assert.match(resolved.stderr, 'm1 has ended: it was completed.')
  for (const answer of [unknown, late, silent, resolved]) isSentence(answer)
})

test('wrong words are named, with a code of their own', async () => {
  const wrong: string[][] = [
    ['migrate', 'web1', '--bandwidth', 'fast'],
    ['migrate', 'web1', '--downtime', 'short'],
    ['migrate', 'web1', '--no-such-option'],
    ['watch', '--from', 'yesterday'],
    ['no-such-verb'],
    ['resolve', 'm1'],
    ['coordinator', '--fence', join(lab.folder, 'nowhere.json')],
    ['agent', '--config', join(lab.folder, 'nowhere.json')],
  ]
  for (const words of wrong) {
    const answer = await lab.ferry(...words)
    ended(answer, 2)
    isSentence(answer)
  }
  const config = join(lab.folder, 'wrong.json')
  await writeFile(config, JSON.stringify({ host: 'rack3', servers: [] }))
  const answer = await lab.ferry('agent', '--config', config)
  ended(answer, 2)
  isSentence(answer)
})

test('a value that a coordinator does not take is named by it', async () => {
  const answer = await lab.ferry('migrate', 'web1', '--attempts', '0')
  ended(answer, 3)
  assert.match(answer.stderr, '/policy/attempts')
})

test('the doctor looks at everything, and a missing log is told with what to do', async () => {
  const { stdout } = await lab.ferry('doctor')
  for (const word of ['nats-server', 'a power cut', 'QEMU', '/dev/kvm', 'clock', 'coordinator'])
    assert.match(stdout, word)
  const config = await lab.ferry('doctor', '--json', '--config', join(lab.folder, 'rack1.json'))
  const found = new Set(JSON.parse(config.stdout).map(({ what }: { what: string }) => what))
  for (const what of ['transfer port', 'state directory']) assert.ok(found.has(what), what)
})

test('a coordinator and an agent do not run on less than is asked of the log', async () => {
  const config = join(lab.folder, 'demanding.json')
  const rack1 = JSON.parse(await readFile(join(lab.folder, 'rack1.json'), 'utf8'))
  const demanding = { ...rack1, host: 'rack9', stateDirectory: 'rack9', durability: 'replicated' }
  await writeFile(config, JSON.stringify(demanding))
  for (const words of [
    ['coordinator', '--name', 'c9', '--durability', 'replicated'],
    ['agent', '--config', config],
  ]) {
    const refused = await lab.ferry(...words)
    ended(refused, 3)
    assert.match(refused.stderr, 'it stands on one server. Run three nats-servers as a cluster.')
    isSentence(refused)
  }
  ended(await lab.ferry('coordinator', '--durability', 'perfect'), 2)
})

test('where no log is, every verb says so', async () => {
  const { code, stderr } = await lab.ferryAt('nats://127.0.0.1:1', 'fleet')
  assert.is(code, 4)
  assert.match(stderr, '127.0.0.1:1')
  const doctor = await lab.ferryAt('nats://127.0.0.1:1', 'doctor')
  assert.is(doctor.code, 1)
  assert.match(doctor.stdout, 'ferry up')
})

test('the log can be watched from any position', async () => {
  const stdout = await lab.watching(['--from', '1'], (text) => text.includes('Completed'))
  assert.match(stdout, /^#1 /)
  assert.match(stdout, 'MigrationRequested')
})

test('who has read enough of the log closes it, and nothing is complained of', async () => {
  const words = ['ferry.mjs', 'watch', '--from', '1', '--server', lab.server()]
  const child = spawn(process.execPath, words, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] })
  try {
    const ended = Promise.all([text(child.stderr), once(child, 'exit')])
    await within(systemClock, 30_000, 'the first lines', once(child.stdout, 'data'))
    child.stdout.destroy()
    // More to print.
    await lab.migrate({ vm: 'web1', request: 'unread' })
    const [stderr] = await within(systemClock, 30_000, 'its end', ended)
    assert.is(child.exitCode, 0, stderr)
    assert.is(stderr, '')
    await lab.ended('unread')
  } finally {
    child.kill('SIGKILL')
  }
})

test('other programs find the requests with the NATS services protocol', async () => {
  const { nc } = lab.connection
  const reply = await nc.request('$SRV.INFO.ferry', '', { timeout: 5000 })
  const { endpoints } = reply.json<{ endpoints: { name: string; subject: string }[] }>()
  assert.equal(endpoints.map(({ name }) => name).toSorted(), [
    'cancel',
    'fleet',
    'limit',
    'migrate',
    'recover',
    'resolve',
    'start',
    'status',
  ])
  const answer = await nc.request('ferry.api.migrate', '{"vm": "web1", "taget": "rack2"}', {
    timeout: 5000,
  })
  const { accepted, refusal } = answer.json<{ accepted: boolean; refusal: { type: string } }>()
  assert.equal([accepted, refusal.type], [false, 'NotUnderstood'])
})

test.run()

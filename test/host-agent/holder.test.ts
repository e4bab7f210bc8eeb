import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isHeld, letGo } from '@ferry/host-agent/drivers/libvirt/holder'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../until.ts'

/** libvirtd ends a migration with the connection by which it was asked for, unless somebody keeps that open. */
const test = suite('who keeps a connection to libvirtd open')

const folder = await mkdtemp(join(tmpdir(), 'ferry-holder-'))
const path = join(folder, 'daemon.sock')
const guest = join(folder, 'web1')
const visitors = new Set<Socket>()
const daemon = createServer((visitor) => {
  visitors.add(visitor)
  visitor.resume().once('close', () => visitors.delete(visitor))
}).listen(path)
test.after(async () => {
  daemon.close()
  await letGo(guest)
  await rm(folder, { recursive: true })
})

const areOpen = (count: number) =>
  until(`${count} connections to be open`, () => visitors.size === count)

/** One that has gone before this one came would have been missed by now. */
async function areStillOpen(count: number): Promise<void> {
  const probe = connect(path)
  await areOpen(count + 1)
  probe.destroy()
  await areOpen(count)
}

/** A process that has made a holder is killed; where a guest's folder is named, it had told it to stay. */
async function makerKilled(...guests: string[]): Promise<void> {
  const words = ['--import', 'tsx', join(import.meta.dirname, 'holder-maker.ts'), path, ...guests]
  const maker = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] })
  const gone = once(maker, 'exit')
  await once(maker.stdout, 'data')
  maker.kill('SIGKILL')
  await gone
}

test('keeps it open behind a process that is killed, until the guest is let go of', async () => {
  await makerKilled(guest)
  await areStillOpen(1)
  assert.ok(await isHeld(guest))
  await letGo(guest)
  await areOpen(0)
  assert.not.ok(await isHeld(guest))
})

test('ends with a process that is killed before it was told to stay', async () => {
  await makerKilled()
  await areOpen(0)
})

test('gives way to the next one of the same guest', async () => {
  await makerKilled(guest)
  await areStillOpen(1)
  await makerKilled(guest)
  await areStillOpen(1)
  await letGo(guest)
  await areOpen(0)
})

const YEAR_S = 365 * 24 * 60 * 60

const wordsOf = async (pid: number): Promise<string[]> => {
  const text = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
  return text.split('\0')
}

test('keeps it open for longer than any disk is copied', async () => {
  await makerKilled(guest)
  const pid = Number(await readFile(join(guest, 'holder.pid'), 'utf8'))
  await until('it to have been told to stay', async () => (await wordsOf(pid))[0] === 'sleep')
  const [, seconds] = await wordsOf(pid)
  assert.ok(Number(seconds) > 50 * YEAR_S, seconds)
  await letGo(guest)
  await areOpen(0)
})

test('is let go of as well where an agent of an earlier release has made it', async () => {
  const earlier = spawn('sleep', ['86413'], { stdio: 'ignore' })
  const gone = once(earlier, 'exit')
  await once(earlier, 'spawn')
  await mkdir(guest, { recursive: true })
  await writeFile(join(guest, 'holder.pid'), String(earlier.pid))
  await letGo(guest)
  const [, signal] = await gone
  assert.is(signal, 'SIGKILL')
})

test.run()

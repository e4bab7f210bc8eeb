import { appendFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { knownHostsFile } from '@ferry/coordinator/known-hosts'
import type { KnownHosts } from '@ferry/coordinator/known-hosts'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { silent } from '../fleet-in-process.ts'
import { until } from '../until.ts'

const test = suite('the hosts that a coordinator remembers')

async function inFolder(work: (path: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-hosts-'))
  try {
    await work(join(folder, 'state', 'c1.hosts'))
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** One life of a coordinator. @returns what it knew at its end. */
async function life(path: string, live: (hosts: KnownHosts) => void = () => {}): Promise<string[]> {
  const hosts = await knownHostsFile(path, silent)
  live(hosts)
  const names = [...hosts.names()]
  await hosts.close()
  return names
}

test('are known again to the next one, however they are called', () =>
  inFolder(async (path) => {
    const names = ['rack1', 'a "host"\nof two lines', '__proto__', 'Ω']
    await life(path, ({ add }) => names.forEach(add))
    assert.equal(await life(path), names)
  }))

test('stand there once, however often they are heard', () =>
  inFolder(async (path) => {
    await life(path, ({ add }) => ['rack1', 'rack1'].forEach(add))
    await life(path, ({ add }) => add('rack1'))
    assert.equal(await life(path), ['rack1'])
  }))

test('are not taken for others when a power cut has torn the last line', () =>
  inFolder(async (path) => {
    await life(path, ({ add }) => add('rack1'))
    await appendFile(path, '\n"rack1')
    assert.equal(await life(path, ({ add }) => add('rack12')), ['rack1', 'rack12'])
    assert.equal(await life(path), ['rack1', 'rack12'])
  }))

test('are kept in mind while the disk takes nothing', () =>
  inFolder(async (path) => {
    const errors: string[] = []
    const say = { ...silent, error: (...words: unknown[]) => void errors.push(String(words[1])) }
    const hosts = await knownHostsFile(path, say)
    await hosts.close()
    // What is closed takes nothing, either.
    hosts.add('rack1')
    hosts.add('rack2')
    await until('both to have failed', async () => errors.length > 0)
    assert.equal([...hosts.names()], ['rack1', 'rack2'])
    assert.equal(errors, ['hosts cannot be written down'])
  }))

test.run()

import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isHeld, letGo, makeHolder } from '@ferry/host-agent/drivers/libvirt/holder'
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
  await rm(folder, { recursive: true })
})

const areOpen = (count: number) =>
  until(`${count} connections to be open`, () => visitors.size === count)

/** A connection, and its descriptor. */
async function connected() {
  const socket = connect(path)
  await once(socket, 'connect')
  await areOpen(1)
  const handle: unknown = Reflect.get(socket, '_handle')
  assert.ok(typeof handle === 'object' && handle !== null)
  return { socket, descriptor: Number(Reflect.get(handle, 'fd')) }
}

test('keeps it open behind the one that made it, until the guest is let go of', async () => {
  const { socket, descriptor } = await connected()
  const holder = await makeHolder(descriptor)
  await holder.stay(guest)
  holder.close()
  socket.destroy()
  assert.ok(await isHeld(guest))
  const pid = await readFile(join(guest, 'holder.pid'), 'utf8')
  const itsName = () => readFile(`/proc/${pid}/comm`, 'utf8')
  await until('it to have become what stays', async () => (await itsName()) === 'sleep\n')
  assert.is(visitors.size, 1)
  await letGo(guest)
  await areOpen(0)
  assert.not.ok(await isHeld(guest))
})

test('lets go by itself when the one that made it ends first', async () => {
  const { socket, descriptor } = await connected()
  const holder = await makeHolder(descriptor)
  socket.destroy()
  assert.is(visitors.size, 1)
  // As the end of its process does.
  holder.close()
  await areOpen(0)
})

test('gives way to the next one of the same guest', async () => {
  const first = await connected()
  await (await makeHolder(first.descriptor)).stay(guest)
  first.socket.destroy()
  const second = createServer((its) => its.resume()).listen(join(folder, 'other.sock'))
  const visitor = connect(join(folder, 'other.sock'))
  await once(visitor, 'connect')
  const handle: unknown = Reflect.get(visitor, '_handle')
  assert.ok(typeof handle === 'object' && handle !== null)
  await (await makeHolder(Number(Reflect.get(handle, 'fd')))).stay(guest)
  await areOpen(0)
  await letGo(guest)
  visitor.destroy()
  second.close()
})

test.run()

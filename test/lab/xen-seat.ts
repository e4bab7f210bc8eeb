import { createServer } from 'node:net'
import type { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import { systemClock } from '@ferry/events/clock'
import type { Dial } from '@ferry/host-agent/dial'
import { CopyFailed } from '@ferry/host-agent/driver'
import type { Driver } from '@ferry/host-agent/driver'
import { openDaemon } from '@ferry/host-agent/drivers/libvirt/daemon'
import { libxlDriver } from '@ferry/host-agent/drivers/libxl/driver'
import { openLibxlHost } from '@ferry/host-agent/drivers/libxl/host'
import { openLibxlNotes } from '@ferry/host-agent/drivers/libxl/notes'
import { probeLibxl } from '@ferry/host-agent/drivers/libxl/probe'
import { xenDriver } from '@ferry/host-agent/drivers/xen/driver'
import { openNotes } from '@ferry/host-agent/drivers/xen/notes'
import { probeXen } from '@ferry/host-agent/drivers/xen/probe'
import { openXl } from '@ferry/host-agent/drivers/xen/xl'
import { FRAME_HEADER_BYTES } from '@ferry/host-agent/transfer/frames'
import type { Policy } from '@ferry/schemas/policy'
import type { Failure } from '@ferry/schemas/refusal'
import { nobodyTells } from '../contract/wire.ts'
import { testDial } from '../dial.ts'
import { hasRoom, openSeat } from './seat-frames.ts'
import type { Trouble, Word } from './seat-frames.ts'

/**
 * Runs in a dom0 of the lab: Ferry's driver for Xen, as it is, whose calls a test makes from outside. Its death is that
 * of an agent. `node xen-seat.mjs xl|libxl GUESTS DEFINITIONS PORT`
 */
const [tool = '', guests = '', definitions = '', port = ''] = process.argv.slice(2)
const resumer = '/usr/local/lib/ferry/xen-resume'
const xl = openXl({ clock: systemClock, resumer })
const driver = tool === 'libxl' ? await byLibvirt() : await byXl()
createServer(serve).listen(Number(port), '0.0.0.0')

async function byXl(): Promise<Driver> {
  const facts = await probeXen({ xl, resumer })
  const startsByItself = '/etc/xen/auto'
  return xenDriver({ xl, notes: openNotes(guests), definitions, startsByItself, facts })
}

async function byLibvirt(): Promise<Driver> {
  const [clock, socket] = [systemClock, '/run/libvirt/libvirt-sock']
  const daemon = openDaemon(socket, clock, 'xen:///system')
  const host = openLibxlHost({ daemon, xl, notes: openLibxlNotes(guests), guests })
  return libxlDriver({ host, guests, definitions, facts: await probeLibxl({ socket, xl, clock }) })
}

function serve(socket: Socket): void {
  const stop = new AbortController()
  let dial: Dial | undefined
  const asked: {
    gate: (word: 'passed' | Failure) => void
    sent: (word: 'done' | Failure) => void
  } = {
    gate: () => {},
    sent: () => {},
  }
  const filling: { into?: Writable; over: (word: 'done' | Failure) => void } = { over: () => {} }
  const seat = openSeat(
    socket,
    (word) => {
      if ('call' in word) void answer(word)
      if ('gate' in word && word.gate !== 'asked') asked.gate(word.gate)
      if ('sent' in word) asked.sent(word.sent)
      if ('fill' in word && word.fill !== 'begin') filling.over(word.fill)
      if ('policy' in word) dial?.turn(word.policy)
      if ('stop' in word) stop.abort(new Error('told to stop'))
    },
    (piece) => {
      const { into } = filling
      if (into === undefined || into.destroyed) return
      if (!into.write(piece)) {
        socket.pause()
        void hasRoom(into).then(() => socket.resume())
      }
    },
  )
  const perform = (vm: string, policy: Policy, cookie?: string) =>
    driver.perform(vm, {
      dial: (dial = testDial(policy)),
      ...(cookie === undefined ? {} : { cookie }),
      signal: stop.signal,
      send: async (image) => {
        const sent = new Promise<'done' | Failure>((resolve) => {
          asked.sent = (word) => {
            if (word !== 'done') image.stop(new CopyFailed(word))
            resolve(word)
          }
        })
        for (let frame = await image.next(); frame !== undefined; frame = await image.next())
          await seat.give(Buffer.from(frame.subarray(FRAME_HEADER_BYTES)))
        seat.say({ sent: 'done' })
        const word = await sent
        if (word !== 'done') throw new CopyFailed(word)
      },
      gate: async () => {
        const passed = new Promise<'passed' | Failure>((resolve) => {
          asked.gate = resolve
        })
        seat.say({ gate: 'asked' })
        const word = await passed
        if (word !== 'passed') throw new CopyFailed(word)
      },
      paused: (at) => seat.say({ paused: at }),
      round: (round) => seat.say({ round }),
      progress: (progress) => seat.say({ progress }),
    })
  const receive = (vm: string) =>
    driver.receive(vm, {
      signal: stop.signal,
      told: nobodyTells,
      fill: async (hypervisor) => {
        hypervisor.on('error', () => {})
        const over = new Promise<'done' | Failure>((resolve) => {
          filling.over = resolve
        })
        filling.into = hypervisor
        seat.say({ fill: 'begin' })
        const word = await over
        if (word !== 'done') throw new CopyFailed(word)
        hypervisor.end()
      },
    })
  const answer = async ({ call, words }: Extract<Word, { call: string }>) => {
    try {
      const [vm, policy, cookie] = words as [string, Policy, string | undefined]
      const work =
        call === 'perform'
          ? perform(vm, policy, cookie)
          : call === 'receive'
            ? receive(vm)
            : (driver[call as keyof Driver] as (...words: unknown[]) => Promise<unknown>)(...words)
      const result: unknown = await work
      seat.say({ result: result ?? null })
    } catch (error) {
      seat.say({ error: troubleOf(error) })
    }
    socket.end()
  }
}

function troubleOf(error: unknown): Trouble {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error) }
  const { name, message } = error
  const failure = 'failure' in error ? { failure: error.failure as Failure } : {}
  return { name, message: `${message} ${error.stack ?? ''}`, ...failure }
}

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { systemClock } from '@ferry/events/clock'
import { resolve } from '@ferry/host-agent/drivers/qemu/definition'
import { probeQemu } from '@ferry/host-agent/drivers/qemu/probe'
import { bootSector, busyGuest, fullGuest, quietGuest } from '../guest/boot-sector.ts'
import type { GuestProgram } from '../guest/boot-sector.ts'
import { openLab } from '../real/lab.ts'
import { moveBare } from './bare.ts'
import { moveByFerry } from './ferry.ts'
import type { Move } from './figures.ts'
import { machine } from './machine.ts'
import { writeSection } from './page.ts'
import { report } from './report.ts'

/**
 * `pnpm bench [--rounds N]`: the same guests moved by a bare QMP script, by the same with QEMU's own TLS, and by Ferry,
 * by turns, so that whatever else the machine does falls on all of them. Writes its section of RESULTS.md.
 */
const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '10' }, output: { type: 'string' } },
})
const rounds = Number(values.rounds)
if (!Number.isInteger(rounds) || rounds < 1)
  throw new Error(`--rounds ${values.rounds} is no number`)
const output = values.output ?? join(import.meta.dirname, 'RESULTS.md')

const MEMORY_MIB = 1024
/** What an operator gets who sets nothing. */
const DOWNTIME_MS = 300
/** QEMU's own TLS never gets the busy guest across. */
const LIMIT_MS = 12_000

const guests: { readonly [name: string]: GuestProgram } = {
  quiet: quietGuest,
  full: fullGuest,
  busy: busyGuest,
}
const ways = ['bare', 'bare with TLS', 'Ferry'] as const

const root = await mkdtemp(join(tmpdir(), 'ferry-'))
const lab = await openLab({ hosts: ['rack1', 'rack2'], driver: 'qemu', logLevel: 'warn' })
const moves = new Map<string, Move[]>()
try {
  const facts = await probeQemu({
    binary: 'qemu-system-x86_64',
    accelerators: ['tcg'],
    clock: systemClock,
  })
  await mkdir(root, { recursive: true })
  for (let round = 0; round <= rounds; round++)
    for (const [name, program] of Object.entries(guests))
      for (const way of ways) {
        const path = join(root, `${name}.img`)
        await writeFile(path, bootSector(program))
        const disks = [{ path, format: 'raw', interface: 'ide' } as const]
        const definition = resolve(
          { memoryMiB: MEMORY_MIB, accel: 'tcg', disks },
          { accelerators: ['tcg'], machineOf: facts.machineOf },
        )
        await lab.defineGuest(name, { program, memoryMiB: MEMORY_MIB })
        const bare = { downtimeMs: DOWNTIME_MS, limitMs: LIMIT_MS }
        const move =
          way === 'Ferry'
            ? await moveByFerry(lab, name, round, { downtimeMs: DOWNTIME_MS, timeoutMs: 60_000 })
            : await moveBare(root, definition, { ...bare, isEncrypted: way === 'bare with TLS' })
        console.log(`${round === 0 ? 'warm-up' : round} ${name} ${way}: ${inWords(move)}`)
        const key = `${name}/${way}`
        if (round > 0) moves.set(key, [...(moves.get(key) ?? []), move])
      }
} finally {
  await lab.close()
  await rm(root, { recursive: true })
}
await writeSection(
  output,
  report({
    guests: Object.keys(guests),
    ways,
    moves,
    rounds,
    machine: await machine(),
    downtimeMs: DOWNTIME_MS,
    limitMs: LIMIT_MS,
    memoryMiB: MEMORY_MIB,
  }),
)
console.log(`\n${output}`)

function inWords(move: Move): string {
  const gigabits = `${(move.bitsPerSecond / 1e9).toFixed(2)} Gbit/s`
  return move.hasArrived
    ? `${Math.round(move.totalMs)} ms in all, ${move.downtimeMs.toFixed(1)} ms of downtime, ${gigabits}`
    : `did not arrive, ${gigabits}`
}

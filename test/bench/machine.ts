import { execFile } from 'node:child_process'
import { cpus, loadavg, release, totalmem } from 'node:os'
import { promisify } from 'node:util'

/** What the figures were measured on, and when. */
export async function machine(): Promise<string> {
  const version = async (command: string) =>
    (await promisify(execFile)(command, ['--version'])).stdout.split('\n')[0]?.trim()
  const [cpu] = cpus()
  return [
    new Date().toISOString().slice(0, 10),
    `${cpus().length} × ${cpu?.model.trim() ?? 'unknown CPU'}`,
    `${Math.round(totalmem() / 2 ** 30)} GiB`,
    `Linux ${release()}`,
    `Node ${process.versions.node}`,
    await version('qemu-system-x86_64'),
    await version('nats-server'),
    'TCG guests, both hosts on this machine',
  ].join(' · ')
}

/** How busy it is: the load of one minute. */
export const loadNow = (): number => loadavg()[0] ?? Number.NaN

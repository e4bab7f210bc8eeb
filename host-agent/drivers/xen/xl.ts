import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { Clock } from '@ferry/events/clock'
import { configsIn, domainsIn, infoIn } from './listing.ts'
import type { Config, Domain } from './listing.ts'

/** This host's toolstack. Nothing that it is asked for is waited for without an end: xl itself has none. */
export type Xl = {
  readonly clock: Clock
  readonly domains: () => Promise<Domain[]>
  /** By the domains' numbers. */
  readonly configs: () => Promise<ReadonlyMap<number, Config>>
  readonly info: () => Promise<ReadonlyMap<string, string>>
  readonly create: (file: string) => Promise<void>
  readonly rename: (domain: Domain, name: string) => Promise<void>
  /** Lets one run that was paused. */
  readonly unpause: (domain: Domain) => Promise<void>
  /** Lets one run that was suspended: nothing of xl's own does (`resume.c`). */
  readonly resume: (domain: Domain) => Promise<void>
  readonly destroy: (domain: Domain) => Promise<void>
}

/** xl was asked for something, and said that it cannot be. */
export class XlFailed extends Error {
  override readonly name = 'XlFailed'
}

const ANSWER_MS = 60_000
/** It waits for the guest's disks and network cards, and for its turn: one guest is made at a time. */
const CREATE_MS = 120_000

export function openXl({
  clock,
  resumer,
}: {
  readonly clock: Clock
  readonly resumer: string
}): Xl {
  const domains = async () => domainsIn(await said('xl', ['list']))
  const settled = async ({ domid, name }: Domain, isDone: (now: Domain | undefined) => boolean) => {
    const now = (await domains()).find((each) => each.domid === domid)
    if (!isDone(now)) throw new XlFailed(`${name} is ${now?.state ?? 'not there'} after that`)
  }
  return {
    clock,
    domains,
    configs: async () => configsIn(await said('xl', ['list', '-l'])),
    info: async () => infoIn(await said('xl', ['info'])),
    create: async (file) => void (await said('xl', ['create', '-q', file], CREATE_MS)),
    rename: async ({ domid }, name) => void (await said('xl', ['rename', String(domid), name])),
    unpause: async (domain) => {
      await said('xl', ['unpause', String(domain.domid)])
      // It ends with 0 also where it has not.
      await settled(domain, (now) => now?.state === 'running')
    },
    resume: async (domain) => {
      await said(resumer, [String(domain.domid)])
      await settled(domain, (now) => now?.state === 'running' || now?.state === 'paused')
    },
    destroy: async (domain) => {
      try {
        await said('xl', ['destroy', String(domain.domid)])
      } catch (error) {
        await settled(domain, (now) => now === undefined).catch(() => {
          throw error
        })
      }
    },
  }
}

async function said(
  program: string,
  words: readonly string[],
  limitMs = ANSWER_MS,
): Promise<string> {
  const options = { timeout: limitMs, killSignal: 'SIGKILL', maxBuffer: 16 * 1024 ** 2 } as const
  try {
    return (await promisify(execFile)(program, words, options)).stdout
  } catch (cause) {
    throw new XlFailed(`${[program, ...words].join(' ')}: ${wordsOf(cause)}`, { cause })
  }
}

function wordsOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const stderr = 'stderr' in error && typeof error.stderr === 'string' ? error.stderr.trim() : ''
  return stderr === '' ? error.message : lastLines(stderr)
}

/** What a person would look at first. */
export const lastLines = (text: string): string => text.trim().split('\n').slice(-3).join(' · ')

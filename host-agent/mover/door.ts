import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { Socket } from 'node:net'
import { parse } from '@ferry/schemas/parse'
import { readLines } from '../lines.ts'
import { FromAgent, filesIn } from './words.ts'
import type { FromMover } from './words.ts'

/** The socket by which agents reach a mover, one after the other, in a folder of its own. */
export type Door = {
  /** Resolves when an agent has come. */
  readonly visited: Promise<void>
  /** Tells whoever is there what came of it, and lets nobody in any more. */
  readonly over: (fact: string | undefined) => Promise<void>
}

/** @param ordered what it does, which is the first that an agent hears. */
export async function openDoor(
  folder: string,
  ordered: Promise<{ readonly command: string }>,
  heard: (word: FromAgent) => void,
): Promise<Door> {
  const { socket: path, pid } = filesIn(folder)
  const visitors = new Set<Socket>()
  const write = (visitor: Socket, line: FromMover) => visitor.write(`${JSON.stringify(line)}\n`)
  let visit = () => {}
  const visited = new Promise<void>((resolve) => {
    visit = resolve
  })
  const server = createServer((visitor) => {
    visitors.add(visitor)
    visitor.on('error', () => {}).once('close', () => visitors.delete(visitor))
    const nonsense = () => visitor.destroy()
    readLines(visitor, (line) => heard(parse(FromAgent, JSON.parse(line), 'the line')), nonsense)
    void ordered.then(({ command }) => write(visitor, { command, hearsPolicy: true }))
    visit()
  })
  const listening = new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, resolve)
  })
  await Promise.all([listening, writeFile(pid, String(process.pid), { mode: 0o600 })])
  return {
    visited,
    over: async (fact) => {
      server.close()
      await Promise.all(
        [...visitors].map((visitor) => {
          write(visitor, { over: true, ...(fact === undefined ? {} : { fact }) })
          return new Promise<void>((resolve) => {
            visitor.end(() => resolve())
            visitor.once('close', () => resolve())
          })
        }),
      )
    },
  }
}

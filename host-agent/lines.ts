import type { Socket } from 'node:net'

/** The longest that anybody has to say here: QEMU's `query-cpu-definitions` gives about 100 KiB. */
const LONGEST_LINE = 16 * 1024 * 1024

/** Reads what comes line by line; a line that makes `take` throw, or that never ends, is the end of it. */
export function readLines(
  socket: Socket,
  take: (line: string) => void,
  gone: (cause: Error) => void,
): void {
  let rest = ''
  socket.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    try {
      if (rest.length > LONGEST_LINE) throw new Error('it sends lines without an end')
      for (const line of lines) if (line.trim() !== '') take(line)
    } catch (error) {
      gone(error instanceof Error ? error : new Error(String(error)))
    }
  })
}

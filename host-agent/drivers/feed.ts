import { Writable } from 'node:stream'

/**
 * What takes an image for a hypervisor, in front of the pipe or socket that it reads. With the last byte the pipe stays
 * open, unless `atEnd` closes it; and a pipe that breaks is told of when `beforeFailing` is through, not sooner: the source
 * hears of it at once by its own stream, and its word must not come before the target's, which knows why.
 */
export function feed(
  pipe: Writable,
  edges: { readonly atEnd?: () => void; readonly beforeFailing?: () => Promise<void> } = {},
): Writable {
  const { atEnd, beforeFailing = async () => {} } = edges
  const fail = async (answer: Answer, error: Error) => {
    await beforeFailing().catch(() => {})
    answer(error)
  }
  const told = (answer: Answer) => (error?: Error | null) =>
    error == null ? answer() : void fail(answer, error)
  const front = new Writable({
    write: (chunk: Buffer, _, done) => {
      pipe.write(chunk, told(done))
    },
    writev: (pieces, done) => {
      pipe.cork()
      for (const [nth, { chunk }] of pieces.entries())
        pipe.write(chunk, nth === pieces.length - 1 ? told(done) : undefined)
      pipe.uncork()
    },
    final: (done) => {
      atEnd?.()
      done()
    },
  })
  front.on('error', () => {})
  return front
}

type Answer = (error?: Error) => void

import { PassThrough, pipeline } from 'node:stream'
import { nobodyListens } from '../direct.ts'
import type { Answers, Cable } from '../direct.ts'
import type { Life } from './life.ts'
import { live } from './life.ts'
import { pipe } from './wire.ts'
import type { Ether } from './wire.ts'

/** The hypervisors of a machine live as long as it does, whatever becomes of its agent. */
export const machineLife = ({ time }: Ether, host: string): Life =>
  live({ node: host, time, wrong: { offsetMs: 0, drift: 1 }, mayCrash: () => false })

type Socket = { readonly life: Life; readonly incoming: PassThrough }

/** Where nothing passes any more Linux gives a connection up after some 15 minutes (`tcp_retries2`); no image takes so long. */
const GIVEN_UP_MS = 924_000

/**
 * What hypervisors move images over by themselves, seen from one machine: the same network as that of the agents, with its
 * partitions and broken streams. No bit of them is flipped, for nobody would find out.
 *
 * @param listening and answers are shared by all machines.
 */
export function cableOf(
  ether: Ether,
  life: Life,
  listening: Map<string, Socket>,
  answers: Answers,
): Cable {
  const chance = ether.chances(`the cable of ${life.node}`)
  const give: Answers['give'] = (name, isLoaded) =>
    answers.give(name, isLoaded && !chance.happens(ether.faults().lostLoaded))
  return {
    answers: { ...answers, give },
    listen: (name) => {
      const incoming = new PassThrough()
      listening.set(name, { life, incoming })
      return incoming
    },
    connect: (name) => {
      const there = listening.get(name)
      listening.delete(name)
      const isReached =
        there !== undefined &&
        ether.network.reaches(life.node, there.life.node) &&
        ether.network.reaches(there.life.node, life.node)
      if (!isReached) return nobodyListens()
      const [near, far] = pipe(ether, life, there.life, { isFramed: false })
      pipeline(far, there.incoming, () => {})
      ether.time.after(GIVEN_UP_MS, () => {
        near.destroy()
        there.incoming.destroy(new Error('given up'))
        answers.give(name, false)
      })
      return near
    },
  }
}

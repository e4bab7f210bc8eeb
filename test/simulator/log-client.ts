import { encode } from '@ferry/schemas/cloud-event'
import { within } from '@ferry/events/clock'
import type { Entry } from '@ferry/events/entry'
import { Conflict, placeOf } from '@ferry/events/log'
import type { Delivery, Log } from '@ferry/events/log'
import { ANSWER_MS, makeAsking } from '@ferry/events/log/asking'
import { matching } from '@ferry/events/log/in-memory'
import { Queue } from '@ferry/events/queue'
import type { Registers } from '@ferry/events/registers'
import type { Chances } from './chance.ts'
import type { Faults } from './faults.ts'
import type { Life } from './life.ts'
import type { Link } from './link.ts'
import type { LogServer } from './log-server.ts'
import { LOG } from './network.ts'
import type { Network } from './network.ts'
import type { Time } from './time.ts'

export type ClientEdges = {
  readonly life: Life
  readonly link: Link
  readonly server: LogServer
  readonly network: Network
  readonly time: Time
  readonly chances: Chances
  readonly faults: () => Faults
}

/** How soon a consumer that the server cannot reach is opened again. */
const REOPEN_MS = 500

/** One way to the server and back: what gets lost or late there, gets lost for the caller too. */
function requests({ life, link, network, time, chances, faults }: ClientEdges) {
  const { node } = life
  const chance = chances(`requests of ${node}`)
  return <T>(what: string, serve: () => T): Promise<T> => {
    const answer = new Promise<T>((resolve, reject) => {
      const { lostRequest, lostAnswer, lateAnswer } = faults()
      const sentOn = link.present()
      if (sentOn === undefined || !network.reaches(node, LOG) || chance.happens(lostRequest)) return
      const lateMs = chance.happens(lateAnswer) ? chance.between(100, 5000) : 0
      const isAnswerLost = chance.happens(lostAnswer)
      time.after(network.latency() + lateMs, () => {
        if (link.present() !== sentOn) return
        let act: () => void
        try {
          const value = serve()
          act = () => resolve(value)
        } catch (error) {
          act = () => reject(error instanceof Error ? error : new Error(String(error)))
        }
        if (isAnswerLost || !network.reaches(LOG, node)) return
        time.after(network.latency(), act)
      })
    })
    return within(life.clock, ANSWER_MS, what, life.heard(answer)).finally(life.step)
  }
}

/** The log as one process sees it: what JetStream's adapter promises, over a simulated network. */
export function logClient(edges: ClientEdges): Log {
  const { life, link, server, network, time, chances, faults } = edges
  const request = requests(edges)
  const { ask, heard, silentForMs } = makeAsking({
    clock: life.clock,
    isDefinite: (error) => error instanceof Conflict,
    isClosed: life.isDead,
  })

  /** Entries in order, each once, over any number of partitions. */
  async function* follow(range: { after: number; subject?: string; signal: AbortSignal }) {
    const queue = new Queue<Entry>()
    const chance = chances(`following by ${life.node}`)
    const isWanted = matching(range.subject)
    let waiting = server.behind(range.after, range.subject)
    /** A consumer is opened anew behind what it gave last, also on a log that is shorter by then. */
    let given = range.after
    let isOnItsWay = false
    const feed = () => {
      if (isOnItsWay || range.signal.aborted || life.isDead() || waiting.length === 0) return
      isOnItsWay = true
      const on = link.present()
      const isOpen = on !== undefined && network.reaches(LOG, life.node)
      const lateMs = chance.happens(faults().lateFollow) ? chance.between(1, 3000) : 0
      time.after(isOpen ? network.latency() + lateMs : REOPEN_MS, () => {
        isOnItsWay = false
        if (isOpen && link.present() === on) {
          const batch = waiting.splice(0)
          given = batch.at(-1)?.position ?? given
          life.whenAwake(() => {
            heard()
            for (const entry of batch) queue.put(entry)
          })
        }
        feed()
      })
    }
    const forgetStored = server.onStored((entry) => {
      if (entry.position <= given || !isWanted(entry.subject)) return
      waiting.push(entry)
      feed()
    })
    const forgetLoss = server.onLost(() => {
      waiting = waiting.filter(({ position }) => position <= server.entries.length)
    })
    const forget = () => {
      forgetStored()
      forgetLoss()
    }
    const end = () => queue.close()
    range.signal.addEventListener('abort', end, { once: true })
    if (range.signal.aborted) end()
    life.onDeath(forget)
    feed()
    try {
      yield* queue
    } finally {
      forget()
      range.signal.removeEventListener('abort', end)
    }
  }

  return {
    append: (event, { expect, ...patience } = {}) => {
      const subject = placeOf(event)
      const body = encode(event)
      const message = { subject, body, id: event.id, ...(expect === undefined ? {} : { expect }) }
      // Samples go to a stream of their own; nobody here follows it.
      if (event.type === 'ProgressSampled') return Promise.resolve({ position: 0 })
      return ask(`appending ${event.type}`, patience, () =>
        request(`appending ${event.type}`, () => server.append(message)),
      )
    },
    next: (subject, after, patience = {}) =>
      ask(`reading ${subject}`, patience, () =>
        request(subject, () => server.next(subject, after)),
      ),
    last: (subject, patience = {}) =>
      ask(`reading ${subject}`, patience, () => request(subject, () => server.last(subject))),
    head: (patience = {}) =>
      ask('reading its head', patience, () => request('its head', () => server.entries.length)),
    async *read({ after, subject, signal }) {
      const patience = {
        patienceMs: Number.MAX_SAFE_INTEGER,
        ...(signal === undefined ? {} : { signal }),
      }
      yield* await ask('reading it', patience, () =>
        request('it', () => server.behind(after, subject)),
      )
    },
    follow,
    deliveries: (receiver) => deliveries(receiver, edges),
    silentForMs,
    onReturn: link.onReturn,
  }
}

/** What nobody was done with comes again. The newest process that asks gets it. */
async function* deliveries(
  receiver: Parameters<Log['deliveries']>[0],
  { life, link, server, network, time, chances, faults }: ClientEdges,
): AsyncGenerator<Delivery, void, undefined> {
  const { durable, subject, ackWaitMs, signal } = receiver
  const chance = chances(`deliveries to ${life.node}`)
  const queue = new Queue<Delivery>()
  const acked = server.acked(durable)
  const isWanted = matching(subject)
  const timers = new Map<number, { cancel: () => void }>()

  const sent = (act: () => void) => {
    const sentOn = link.present()
    if (life.isDead() || sentOn === undefined || !network.reaches(life.node, LOG)) return
    if (chance.happens(faults().lostAck)) return
    time.after(network.latency(), () => link.present() === sentOn && act())
  }
  const offerIn = (entry: Entry, ms: number) => {
    timers.get(entry.position)?.cancel()
    timers.set(
      entry.position,
      time.after(ms, () => offer(entry)),
    )
  }
  const offer = (entry: Entry) => {
    if (life.isDead() || signal.aborted || acked.has(entry.position)) return
    offerIn(entry, ackWaitMs)
    if (link.present() === undefined || !network.reaches(LOG, life.node)) return
    const times = chance.happens(faults().repeatedDelivery) ? 2 : 1
    for (let time_ = 0; time_ < times; time_++)
      time.after(network.latency(), () => life.whenAwake(() => queue.put(deliveryOf(entry))))
  }
  /** The server knows what it is told by its position, whatever stands there by then. */
  const deliveryOf = ({ position, ...rest }: Entry): Delivery => {
    const later = (ms: number) => {
      const entry = server.entries[position - 1]
      if (entry !== undefined && !acked.has(position)) offerIn(entry, ms)
    }
    return {
      entry: { position, ...rest },
      done: () =>
        sent(() => {
          if (position > server.entries.length) return
          acked.set(position, time.now())
          timers.get(position)?.cancel()
        }),
      working: () => sent(() => later(ackWaitMs)),
      again: (ms) => sent(() => later(ms)),
    }
  }
  const offerAll = () => {
    for (const timer of timers.values()) timer.cancel()
    timers.clear()
    for (const entry of server.entries) if (isWanted(entry.subject)) offer(entry)
  }

  const forgetStored = server.onStored((entry) => {
    if (isWanted(entry.subject)) offer(entry)
  })
  const forgetLoss = server.onLost(offerAll)
  const forget = () => {
    forgetStored()
    forgetLoss()
  }
  const end = () => queue.close()
  signal.addEventListener('abort', end, { once: true })
  if (signal.aborted) end()
  life.onDeath(forget)
  offerAll()
  try {
    yield* queue
  } finally {
    forget()
    for (const timer of timers.values()) timer.cancel()
  }
}

/** @param keptMs for so long a value stands, as in a bucket with a limit of age. */
export function registersClient(
  edges: ClientEdges,
  prefix: string,
  keptMs = Number.POSITIVE_INFINITY,
): Registers {
  const { life, link, server, network, time } = edges
  const request = requests(edges)
  const keyOf = (key: string) => `${prefix}/${key}`
  return {
    read: (key) =>
      request(key, () => {
        const register = server.registers.get(keyOf(key))
        return register && { ...register, key }
      }),
    write: (key, value, expected) =>
      request(key, () =>
        (server.registers.get(keyOf(key))?.revision ?? 0) === expected
          ? server.setRegister(keyOf(key), value)
          : undefined,
      ).catch(() => undefined),
    put: async (key, value) => {
      await request(key, () => server.setRegister(keyOf(key), value))
    },
    async *watch(wanted, signal) {
      const queue = new Queue<Awaited<ReturnType<Registers['read']>> & object>()
      let seen = 0
      let isOnItsWay = false
      const feed = () => {
        if (isOnItsWay || signal.aborted || life.isDead()) return
        const news = [...server.registers.values()]
          .filter(({ key, revision }) => revision > seen && key.startsWith(`${prefix}/${wanted}.`))
          .filter(({ writtenAt }) => time.now() - writtenAt < keptMs)
          .toSorted((a, b) => a.revision - b.revision)
        if (news.length === 0) return
        isOnItsWay = true
        const on = link.present()
        const isOpen = on !== undefined && network.reaches(LOG, life.node)
        time.after(isOpen ? network.latency() : REOPEN_MS, () => {
          isOnItsWay = false
          if (isOpen && link.present() === on)
            for (const register of news) {
              seen = register.revision
              const key = register.key.slice(prefix.length + 1)
              life.whenAwake(() => queue.put({ ...register, key }))
            }
          feed()
        })
      }
      const forgetRegister = server.onRegister(feed)
      // Opened anew, it tells everything once more.
      const forgetReturn = link.onReturn(() => {
        seen = 0
        feed()
      })
      const forget = () => {
        forgetRegister()
        forgetReturn()
      }
      const end = () => queue.close()
      signal.addEventListener('abort', end, { once: true })
      if (signal.aborted) end()
      life.onDeath(forget)
      feed()
      try {
        yield* queue
      } finally {
        forget()
      }
    },
  }
}

import { encode } from '@ferry/schemas/cloud-event'
import type { Event } from '@ferry/schemas/event'
import { messages } from '@ferry/schemas/messages'
import { AckPolicy, DeliverPolicy, JetStreamApiError, jetstream } from '@nats-io/jetstream'
import type { Consumer, ConsumerMessages, JetStreamManager, JsMsg } from '@nats-io/jetstream'
import { nanos } from 'nats'
import type { NatsConnection } from 'nats'
import type { Clock } from '../clock.ts'
import { readEntry } from '../entry.ts'
import type { Entry } from '../entry.ts'
import { Conflict, LogUnavailable, placeOf } from '../log.ts'
import type { Delivery, Log, Patience } from '../log.ts'
import { streams } from '../subjects.ts'
import { AGAIN_MS, ANSWER_MS, makeAsking } from './asking.ts'

const WRONG_LAST_SEQUENCE = 10071
const NO_MESSAGE_FOUND = 10037
const BAD_REQUEST = 400

/** A connection that tells when it came back, so that whoever listens can listen anew at once. */
export type Link = {
  readonly nc: NatsConnection
  readonly jsm: JetStreamManager
  readonly onReconnect: (act: () => void) => () => void
}

/** The Log on NATS JetStream. Its words for trouble end here: others hear `Conflict` or `LogUnavailable`. */
export function jetstreamLog({ nc, jsm, onReconnect }: Link, clock: Clock): Log {
  const js = jetstream(nc, { timeout: ANSWER_MS })
  const stream = streams.log.name
  const { ask, heard, silentForMs } = makeAsking({
    clock,
    isDefinite,
    isClosed: () => nc.isClosed(),
  })

  const stored = (what: string, patience: Patience, query: MessageQuery) =>
    ask(what, patience, async () => {
      try {
        const message = await jsm.streams.getMessage(stream, query)
        if (message === null) return undefined
        const { seq, time, subject } = message
        return readEntry({
          position: seq,
          storedAt: time.getTime(),
          subject,
          body: message.string(),
        })
      } catch (error) {
        if (error instanceof JetStreamApiError && error.code === NO_MESSAGE_FOUND) return undefined
        throw error
      }
    })

  /**
   * Runs a consumer; opens it anew, behind the last position it gave, whenever it ends or the connection came back.
   *
   * @throws {LogUnavailable} when nothing has come for as long as the patience, where there is an end to it.
   */
  async function* running(
    open: (after: number, leftMs: number) => Promise<Consumer | undefined>,
    after: number,
    { signal, patienceMs = Infinity }: Patience = {},
  ): AsyncGenerator<JsMsg, void, undefined> {
    let position = after
    let silentSince = clock.elapsed()
    const left = () => patienceMs - (clock.elapsed() - silentSince)
    const isOver = () => signal?.aborted === true || nc.isClosed()
    while (!isOver()) {
      let taken: ConsumerMessages | undefined
      let trouble: unknown
      const reopen = () => taken?.stop()
      const forget = onReconnect(reopen)
      let forgive = () => {}
      signal?.addEventListener('abort', reopen, { once: true })
      try {
        const consumer = await open(position, left())
        if (consumer === undefined) return
        taken = await consumer.consume({ max_messages: 1000, expires: 6000, idle_heartbeat: 1500 })
        if (isOver()) return
        forgive = endAfter(left(), reopen)
        for await (const message of taken) {
          forgive()
          heard()
          position = message.seq
          yield message
          // However long that took, it was not the log that was silent.
          silentSince = clock.elapsed()
          forgive = endAfter(patienceMs, reopen)
        }
      } catch (error) {
        if (nc.isClosed()) throw new LogUnavailable('following it', 0, { cause: error })
        if (isMisused(error)) throw error
        trouble = error
        // Whatever ended the consumer, the position tells where to go on; the pause below bounds how often.
      } finally {
        forgive()
        forget()
        signal?.removeEventListener('abort', reopen)
        // Not waited for: what nobody has begun to read never says that it is closed.
        taken?.stop()
      }
      if (left() <= 0 && !isOver())
        throw new LogUnavailable('reading it', patienceMs - left(), { cause: trouble })
      await clock.sleep(AGAIN_MS, signal).catch(() => {})
    }
  }

  const endAfter = (ms: number, act: () => void): (() => void) =>
    ms === Infinity ? () => {} : clock.after(Math.max(0, ms), act)

  const ordered = (from: number, subject?: string) =>
    js.consumers.get(stream, {
      deliver_policy: DeliverPolicy.StartSequence,
      opt_start_seq: from,
      ...(subject === undefined ? {} : { filter_subjects: subject }),
    })

  return {
    append: (event, { expect, ...patience } = {}) => {
      const subject = placeOf(event)
      const body = encode(event)
      const guard = expect === undefined ? {} : { lastSubjectSequence: expect }
      return ask(`appending ${event.type} to ${subject}`, patience, async () => {
        const options = {
          msgID: event.id,
          timeout: ANSWER_MS,
          expect: { streamName: streamOf(event), ...guard },
        }
        const ack = await js.publish(subject, body, options)
        return { position: ack.seq }
      }).catch((error: unknown) => {
        if (isConflict(error)) throw new Conflict(subject, expect ?? 0, { cause: error })
        throw error
      })
    },

    next: (subject, after, patience = {}) =>
      stored(`reading ${subject}`, patience, { seq: after + 1, next_by_subj: subject }),

    last: (subject, patience = {}) =>
      stored(`reading ${subject}`, patience, { last_by_subj: subject }),

    head: (patience = {}) =>
      ask(
        'reading its head',
        patience,
        async () => (await jsm.streams.info(stream)).state.last_seq,
      ),

    async *read({ after, subject, ...patience }) {
      // How much is pending says the server on which the consumer lives: a follower that lags. Its leader is asked instead.
      let end: Entry | undefined
      let isWhole = false
      const open = async (position: number, leftMs: number) => {
        const limit = leftMs === Infinity ? {} : { patienceMs: leftMs }
        // Asked again whenever the log was away: it may have come back shorter, and what is not there never comes.
        end = await stored(
          'reading on',
          { ...patience, ...limit },
          { last_by_subj: subject ?? '>' },
        )
        isWhole = end === undefined || end.position <= position
        return isWhole ? undefined : ordered(position + 1, subject)
      }
      for await (const message of running(open, after, patience)) {
        yield asEntry(message)
        if (end !== undefined && message.seq >= end.position) return
      }
      if (isWhole) return
      // Whoever judges by what he has read must not take a part for all of it.
      patience.signal?.throwIfAborted()
      throw new LogUnavailable('reading it', silentForMs())
    },

    async *follow({ after, subject, signal }) {
      for await (const message of running((position) => ordered(position + 1, subject), after, {
        signal,
      }))
        yield asEntry(message)
    },

    async *deliveries({ durable, subject, ackWaitMs, signal }) {
      const open = async () => {
        await jsm.consumers.add(stream, {
          durable_name: durable,
          filter_subject: subject,
          ack_policy: AckPolicy.Explicit,
          ack_wait: nanos(ackWaitMs),
          deliver_policy: DeliverPolicy.All,
          max_ack_pending: 10_000,
        })
        return js.consumers.get(stream, durable)
      }
      for await (const message of running(open, 0, { signal })) yield asDelivery(message)
    },

    silentForMs,
    onReturn: onReconnect,
  }
}

type MessageQuery = { seq: number; next_by_subj: string } | { last_by_subj: string }

const streamOf = (event: Event) =>
  messages[event.type].kind === 'progress' ? streams.progress.name : streams.log.name

const asEntry = (message: JsMsg): Entry =>
  readEntry({
    position: message.seq,
    storedAt: message.time.getTime(),
    subject: message.subject,
    body: message.string(),
  })

const asDelivery = (message: JsMsg): Delivery => ({
  entry: asEntry(message),
  done: () => message.ack(),
  working: () => message.working(),
  again: (delayMs) => message.nak(delayMs),
})

const isConflict = (error: unknown): boolean =>
  error instanceof JetStreamApiError && error.code === WRONG_LAST_SEQUENCE

/** The server understood the request and will never do it: asking again would hide a bug. */
const isMisused = (error: unknown): boolean =>
  error instanceof JetStreamApiError && error.status === BAD_REQUEST

/** What the server said no to stays no; anything else (no leader yet, no answer) may pass. */
const isDefinite = (error: unknown): boolean =>
  isConflict(error) ||
  isMisused(error) ||
  (error instanceof JetStreamApiError && error.code === NO_MESSAGE_FOUND)

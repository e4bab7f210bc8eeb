import type { Duplex } from 'node:stream'
import type { DataOf } from '@ferry/schemas/messages'

/** The network that images take from agent to agent: encrypted streams, each for one transfer that is named by its id. */
export interface Wire {
  /** Lets visitors in that say which transfer they come for; what else comes is turned away. */
  listen(at: Endpoint, door: Door): Promise<Listening>
  /**
   * The source's side.
   *
   * @throws {CopyFailed} which says whether it was the network or the target.
   */
  connect(ticket: Ticket, signal: AbortSignal): Promise<Duplex>
  /**
   * The target's side: finds out whether the visitor has the transfer's key.
   *
   * @returns why it is turned away, or the stream.
   */
  admit(visit: Visit, key: Uint8Array): Promise<Duplex | Rejected>
}

export type Endpoint = { readonly host: string; readonly port: number }

/** Where a transfer goes, and what proves that we may use it. */
export type Ticket = {
  readonly transfer: string
  readonly address: Endpoint
  readonly key: Uint8Array
  /** Of the stream: what Begin and Prepare agreed on. */
  readonly version: number
}

/** Somebody at the door. It has said which transfer it comes for, and has proved nothing yet. */
export type Visit = {
  readonly transfer: string
  readonly remoteAddress: string
  readonly stream: Duplex
}

export type Door = {
  readonly visit: (visit: Visit) => void
  /** Somebody came who did not even say what for. */
  readonly nonsense: (why: Intruder['why'], remoteAddress: string) => void
}

export type Listening = { readonly port: number; readonly close: () => Promise<void> }

/** `Left`: it went away by itself, which is nobody's business. */
export type Rejected = { readonly why: Intruder['why'] | 'Left' }

export type Intruder = Omit<DataOf<'ConnectionRefused'>, 'times'>

import type { DataOf, Kind, MessageName, NamesOf, messages } from './messages.ts'

/**
 * A message in memory. On the wire it is a CloudEvent (`cloud-event.ts`); between the two stands `parse`.
 */
export type EventOf<Name extends MessageName> = Name extends MessageName
  ? {
      readonly type: Name
      /** Also the `Nats-Msg-Id`; never used twice. */
      readonly id: string
      readonly writer: Writer
      /** By the writer's clock. */
      readonly time: string
      /** The id of the message that this one answers. */
      readonly causationid?: string
      readonly traceparent?: string
      readonly data: DataOf<Name>
    } & Subject<(typeof messages)[Name]['about']>
  : never

type Subject<About> = About extends 'migration'
  ? { readonly vm: string; readonly migration: string; readonly attempt: number }
  : About extends 'guest'
    ? { readonly vm: string }
    : {}

export type Event = EventOf<MessageName>
export type EventOfKind<K extends Kind> = EventOf<NamesOf<K>>

/** Who wrote a message. A message counts only on its writer's own subjects (I9). */
export type Writer = { readonly coordinator: string } | { readonly host: string }

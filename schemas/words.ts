import { Type } from 'typebox'

/** The few words that every shape is made of: names, times, sizes, positions. */

/**
 * A host or a guest as its operator calls it: anything printable; `subjects.ts` encodes it for NATS. Half a surrogate
 * pair is no character, and nothing could encode it.
 */
export const Name = Type.String({
  pattern:
    '^(?:[^\\u0000-\\u001f\\u007f\\ud800-\\udfff]|[\\ud800-\\udbff][\\udc00-\\udfff]){1,128}$',
})

/** An id that is safe in a subject, a file name and a shell: of migrations, requests and transfers. */
export const Id = Type.String({ pattern: '^[A-Za-z0-9_-]{1,64}$' })

/** A stream sequence: the place of a message in the log. 0 means "before the first". */
export const Position = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })

/** Which one of a format's versions. */
export const Version = Type.Integer({ minimum: 1 })

export const Bytes = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })

/** A length of time in milliseconds; fractions are kept. */
export const Milliseconds = Type.Number({ minimum: 0 })

/** A moment, as milliseconds since 1970 by the clock of the host that says it; fractions are kept. */
export const Moment = Type.Number({ minimum: 0 })

/** A moment as people and other tools read it. */
export const Timestamp = Type.String({
  pattern: '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(\\.\\d+)?Z$',
})

/** Text for people, bounded so that no message can fill the log. */
export const Text = Type.String({ maxLength: 4096 })

/** A public curve key (xkey) of a host: what others seal for it. */
export const CurveKey = Type.String({ pattern: '^X[A-Z2-7]{55}$' })

/** So many letters: whoever seals more than that can hold says so, for it would be void. */
export const SEALED_AT_MOST = 262144

/** Bytes that only their reader can open, as base64. */
export const Sealed = Type.String({
  pattern: '^[A-Za-z0-9+/]+={0,2}$',
  maxLength: SEALED_AT_MOST,
})

export const Port = Type.Integer({ minimum: 1, maximum: 65535 })

/** Where a host's transfer port can be reached. */
export const Address = Type.Object({
  host: Type.String({ minLength: 1, maxLength: 255 }),
  port: Port,
})

/** What both ends of a transfer computed over an image, under a key of that transfer; as hexadecimal digits. */
export const Digest = Type.String({ pattern: '^[0-9a-f]{32}$' })

/** Who wrote a message, or asked for something. */
export const Who = Type.String({ minLength: 1, maxLength: 128 })

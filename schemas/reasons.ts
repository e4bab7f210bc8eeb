import { fits } from './parse.ts'
import { Cause, Failure, HostRefusal } from './refusal.ts'

/**
 * Releases add reasons, and whoever does not know one must not take the message for void: of two readers of a verdict
 * one would obey it, and the other one write its own (I3). So at the door a reason that this release cannot say becomes
 * `UnknownReason`, which keeps its name, wherever a message may give one.
 */
type Data = { readonly [field: string]: unknown }

const shapes = Object.entries({ refusal: HostRefusal, failure: Failure, cause: Cause })

/** The data of a message, with the reasons in it, and those in its cause, as this release can say them. */
export function withKnownReasons(data: Data): Data {
  const reasons = shapes.flatMap(([field, shape]) => {
    const reason = data[field]
    if (!isData(reason) || typeof reason.type !== 'string') return []
    const sayable = withKnownReasons(reason)
    const unknown = { type: 'UnknownReason', reason: reason.type }
    return [[field, fits(shape, sayable) ? sayable : unknown]]
  })
  return reasons.length === 0 ? data : { ...data, ...Object.fromEntries(reasons) }
}

const isData = (value: unknown): value is Data =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

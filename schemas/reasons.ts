import { fits } from './parse.ts'
import { Cause, Failure, HostRefusal } from './refusal.ts'

/**
 * Releases add reasons, and whoever does not know one must not take the message for void: of two readers of a verdict
 * one would obey it, and the other one write its own (I3). So at the door a reason that this release cannot say becomes
 * `UnknownReason`, which keeps its name, wherever a message may give one.
 */
type Data = { readonly [field: string]: unknown }

const shapes = Object.entries({
  refusal: HostRefusal,
  failure: Failure,
  cause: Cause,
  unmovable: HostRefusal,
})

/** The data of a message, with the reasons in it, in its cause and in its lists, as this release can say them. */
export function withKnownReasons(data: Data): Data {
  const reasons = shapes.flatMap(([field, shape]) => {
    const reason = data[field]
    if (!isData(reason) || typeof reason.type !== 'string') return []
    const sayable = withKnownReasons(reason)
    const unknown = { type: 'UnknownReason', reason: reason.type }
    return [[field, fits(shape, sayable) ? sayable : unknown]]
  })
  const lists = Object.entries(data).flatMap(([field, list]) =>
    Array.isArray(list) && list.some(isData)
      ? [[field, list.map((each: unknown) => (isData(each) ? withKnownReasons(each) : each))]]
      : [],
  )
  const sayable = [...reasons, ...lists]
  return sayable.length === 0 ? data : { ...data, ...Object.fromEntries(sayable) }
}

const isData = (value: unknown): value is Data =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

import type { Static, TSchema } from 'typebox'
import { Compile } from 'typebox/compile'
import type { Validator } from 'typebox/compile'

/**
 * Checks a value at the door, and gives it its type. Inside, nobody checks again.
 *
 * @throws {Invalid} which names the path, the value that stands there, and what was wanted.
 */
export function parse<Shape extends TSchema>(
  shape: Shape,
  value: unknown,
  what: string,
): Static<Shape> {
  const validator = validatorOf(shape)
  if (validator.Check(value)) return value
  const error = deepest(validator.Errors(value))
  const path = error?.instancePath ?? ''
  throw new Invalid(what, path, valueAt(value, path), error?.message ?? 'does not fit')
}

/** Whether a value has its shape, for whoever does something else with it where it has not. */
export const fits = <Shape extends TSchema>(shape: Shape, value: unknown): value is Static<Shape> =>
  validatorOf(shape).Check(value)

/** A value that does not have its shape. The message is a sentence for the person who wrote the value. */
export class Invalid extends Error {
  override readonly name = 'Invalid'
  readonly what: string
  readonly path: string
  readonly value: unknown
  readonly problem: string

  constructor(what: string, path: string, value: unknown, problem: string) {
    const place = path === '' ? what : `${path} in ${what}`
    super(`${place} ${problem}; found ${printed(value)}`)
    this.what = what
    this.path = path
    this.value = value
    this.problem = problem
  }
}

const validators = new WeakMap<TSchema, Validator>()

function validatorOf<Shape extends TSchema>(shape: Shape): Validator<{}, Shape> {
  const known = validators.get(shape)
  // The map holds for each shape the validator that was compiled from it.
  if (known !== undefined) return known as Validator<{}, Shape>
  const validator = Compile(shape)
  validators.set(shape, validator)
  return validator
}

type ValidationError = { instancePath: string; keyword: string; message: string }

/** A union reports every branch that failed; the deepest error is the one that a person can act on. */
function deepest(errors: Iterable<ValidationError>): ValidationError | undefined {
  const depth = (error: ValidationError) => error.instancePath.split('/').length
  const telling = [...errors].filter((error) => error.keyword !== 'boolean')
  return telling.toSorted((a, b) => depth(b) - depth(a))[0]
}

/** Follows a JSON pointer (RFC 6901). */
function valueAt(value: unknown, pointer: string): unknown {
  let here = value
  for (const step of pointer.split('/').slice(1)) {
    if (typeof here !== 'object' || here === null) return undefined
    const key = step.replaceAll('~1', '/').replaceAll('~0', '~')
    here = Object.entries(here).find(([name]) => name === key)?.[1]
  }
  return here
}

const LONGEST_PRINTED = 120

function printed(value: unknown): string {
  if (value === undefined) return 'nothing'
  const text = JSON.stringify(value) ?? typeof value
  return text.length > LONGEST_PRINTED ? `${text.slice(0, LONGEST_PRINTED)}…` : text
}

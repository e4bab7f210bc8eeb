import type { Static, TSchema } from 'typebox'
import type { HostRefusal } from '@ferry/schemas/refusal'
import { Invalid, parse } from '@ferry/schemas/parse'

/** A definition as another host's driver wrote it, or what is wrong with it. */
export function readDefinition<Shape extends TSchema>(
  shape: Shape,
  text: string,
): { readonly definition: Static<Shape> } | { readonly refusal: HostRefusal } {
  try {
    return { definition: parse(shape, JSON.parse(text), 'the definition') }
  } catch (error) {
    if (error instanceof Invalid) return invalid(error.path, error.problem)
    if (error instanceof SyntaxError) return invalid('', `is not JSON: ${error.message}`)
    throw error
  }
}

const invalid = (path: string, problem: string) =>
  ({ refusal: { type: 'DefinitionInvalid', path, problem } }) as const
